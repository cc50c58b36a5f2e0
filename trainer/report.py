"""The report verb: a run, what its experts and its traffic look like, on one page."""

import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as ConsoleTable

from moe.files import FileError, replacing
from moe.placement.evaluation import evaluate
from moe.placement.placement import Placement
from moe.placement.statistics import RoutingStatistics
from moe.report.page import Block, Facts, Figure, Section, Table, page
from moe.report.report import placement_sections, saving
from moe.routing_trace import RoutingTrace
from trainer.checkpoint.directory import complete_steps
from trainer.observe.curves import loss_curves
from trainer.observe.metrics import Record, read_metrics
from trainer.observe.simulation import Simulation
