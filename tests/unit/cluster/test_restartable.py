"""A job that is started again resumes its run; the first start begins it."""

from cluster.restartable import with_resume


def test_only_a_run_that_has_come_to_run_is_resumed(tmp_path):
    arguments = [f"run.dir={tmp_path}", "run.name=mine"]
    assert with_resume(arguments) == arguments
    (tmp_path / "mine").mkdir()
    assert with_resume(arguments) == arguments
    (tmp_path / "mine" / "config.yaml").touch()
    assert with_resume(arguments) == arguments, "its settings may have been what was wrong"
    (tmp_path / "mine" / "about.json").touch()
    assert with_resume(arguments) == [*arguments, "run.resume=true"]
