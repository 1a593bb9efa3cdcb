import io
import json

from headjax.train import logging
from headjax.train.logging import Logger, duration


def test_metrics_survive_a_half_written_last_line(tmp_path):
    with Logger(tmp_path, stream=io.StringIO()) as logger:
        logger.metrics("train", 1, values={"loss": 0.5, "speed/steps_per_second": 3.0})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"stage": "tra')
    with Logger(tmp_path, stream=io.StringIO()) as logger:
        logger.metrics("train", 2, values={"loss": 0.25})
        logger.event("train", "resumed", step=2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("loss") for line in lines] == [0.5, 0.25, None]
    assert lines[0]["speed/steps_per_second"] == 3.0 and lines[2]["event"] == "resumed"


def test_a_file_of_one_half_line_is_emptied(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"sta')
    Logger(tmp_path, stream=io.StringIO()).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_logger_without_a_work_directory_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Logger(None, stream=io.StringIO()) as logger:
        logger.metrics("train", 1, values={"loss": 1.0})
        logger.event("train", "started")
    assert list(tmp_path.iterdir()) == []


def test_lines_off_a_terminal_tell_rate_and_time_left(monkeypatch):
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr(logging.time, "monotonic", lambda: now[0])
    with Logger(None, stream=stream).progress("train", total=400, start=100) as bar:
        for _ in range(101):
            now[0] += 0.5
            bar.advance(note="loss 0.1")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train: 100/400 steps"
    assert lines[1] == "train: 140/400 steps, 2 steps/s, about 2 min left, loss 0.1"
    assert len(lines) == 4 and lines[-1].startswith("train: 201/400 steps, 2 steps/s")


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Logger(None, stream=stream).progress("train", total=3, unit="head") as bar:
        for _ in range(3):
            bar.advance(note="loss 0.1")
    assert "train: 100%" in stream.getvalue() and "head/s, loss 0.1" in stream.getvalue()


def test_durations_read_as_people_say_them():
    assert [duration(s) for s in (5, 80, 600, 7200)] == ["5 s", "80 s", "10 min", "2.0 h"]
