"""What examples/scripts/ray_head.sh asks of Ray's job server, and the follower it does not trust."""

import inspect

from ray.dashboard.modules.job import cli, job_head
from ray.job_submission import JobDetails, JobStatus


def test_a_jobs_state_is_asked_by_its_submission_id():
    """`job_state` reads GET /api/jobs/ID; train_rpg.sh waits while it is one of the first two."""
    assert [status.value for status in JobStatus] == ["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
    assert "status" in JobDetails.__fields__
    source = inspect.getsource(job_head)
    assert '@routes.get("/api/jobs/{job_or_submission_id}")\n    async def get_job_info' in source
    assert "text=json.dumps(job.dict())" in source


def test_submit_fails_for_a_failed_job_alone():
    """When Ray's own exit status says more, train_rpg.sh need not ask."""
    source = inspect.getsource(cli.submit.callback)
    assert "if job_status == JobStatus.FAILED:\n                sys.exit(1)" in source
    assert source.count("sys.exit") == 1
