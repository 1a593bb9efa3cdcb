"""The parts of `python -m headjax.tools.sample`: what is asked for, pictures, videos and shapes."""
