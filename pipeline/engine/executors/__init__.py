"""Where the work on several images runs: this process, a child process, the hosts of a Slurm cluster (`slurm.py`)."""

from pipeline.engine.executors.jobs import Executor as Executor
from pipeline.engine.executors.jobs import ImageJob as ImageJob
from pipeline.engine.executors.jobs import Result as Result
from pipeline.engine.executors.jobs import run_jobs as run_jobs
from pipeline.engine.executors.local import THIS_PROCESS as THIS_PROCESS
from pipeline.engine.executors.local import ChildProcess as ChildProcess
from pipeline.engine.executors.local import ThisProcess as ThisProcess
