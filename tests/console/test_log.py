"""Messages: information on standard output, problems on standard error, nothing unasked."""

import logging

from fmce.console.log import logger, messages_shown, show_messages


def test_information_goes_to_standard_output_and_warnings_to_standard_error(capsys):
    show_messages()
    show_messages()  # twice is once
    logger.info("markers at %s", [3, 5])
    logger.warning("moved a checkpoint")
    assert capsys.readouterr() == ("markers at [3, 5]\n", "warning: moved a checkpoint\n")


def test_the_level_decides_what_is_shown(capsys):
    show_messages(logging.WARNING)
    assert not messages_shown()
    logger.info("markers")
    assert capsys.readouterr().out == ""
    show_messages()
    assert messages_shown()


def test_later_ranks_show_errors_alone(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    show_messages()
    logger.warning("moved a checkpoint")
    logger.error("lost rank 0")
    assert capsys.readouterr() == ("", "error: lost rank 0\n")
