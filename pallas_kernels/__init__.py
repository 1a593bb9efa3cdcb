"""Hot operations of headjax, one folder an operation; knows JAX and nothing of headjax."""
