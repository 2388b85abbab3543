"""A training plan, and what became of a concept list, as tables for the terminal."""

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from salf_training.concept_sets import ConceptReport
    from salf_training.dry_run import DryRun

_MARKS = {True: ("yes", "green"), False: ("no", "red"), None: ("later", "yellow")}


def plan_tables(plan: "DryRun") -> Group:
    """What was found, and what training needs."""
    from salf_training.planning import readable_bytes

    found = _table("found", "ready", "")
    for finding in plan.inspection.findings:
        word, style = _MARKS[finding.ready]
        found.add_row(finding.what, Text(word, style=style), Text(finding.told))
    needs = _table("needs", "", "")
    for stage, count in plan.plan.memory.items():
        needs.add_row("memory", stage, readable_bytes(count))
    needs.add_row("memory", "at most", Text(readable_bytes(plan.plan.peak_memory_bytes), style="bold"))
    for what, count in plan.plan.disk.items():
        needs.add_row("disk", what, readable_bytes(count))
    needs.add_row("disk", "in all", Text(readable_bytes(plan.plan.disk_bytes), style="bold"))
    passes = {"encoder": plan.plan.encoder_passes, "backbone": plan.plan.backbone_passes}
    speeds = {"encoder": plan.encoder_speed, "backbone": plan.backbone_speed}
    for name, hours in plan.hours.items():
        speed = speeds[name]
        told = f"{hours:,.2f} h: {passes[name]:,} pictures at {speed.per_s:,.1f}/s ({speed.origin})"
        needs.add_row("hours", name, Text(told))
    for name, petaflop in plan.petaflop.items():
        needs.add_row("work", name, f"{petaflop:,.3g} PFLOP")
    needs.add_row("GPU hours", "encoder", Text(f"{plan.gpu_hours:,.3g} h at {plan.gpu_tflops:g} TFLOP/s sustained"))
    needs.caption = "decoding pictures, bottleneck and head come on top of the hours"
    return Group(found, Text(), needs)


def dropped_table(report: "ConceptReport") -> Table:
    """Every dropped concept with its reason."""
    table = _table("dropped", "why")
    for item in report.dropped:
        table.add_row(Text(item.concept), Text(item.sentence))
    table.caption = f"{len(report.kept)} of {report.given} concepts are kept"
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
