"""Plots tell what they draw and nothing beside."""

import pandas as pd

from evenhand.config import AuditConfig
from evenhand_audit.analysis import audit_table
from evenhand_audit.plots import scatter_plot
from evenhand_audit.simulate import simulated_rows


def test_the_order_of_the_table_is_not_in_the_scatter_plot():
    """The same cases by hospital, or the other way round, are the same file."""
    table = pd.DataFrame(simulated_rows(patients=24)).sort_values("hospital", ignore_index=True)
    audit = audit_table(table, AuditConfig(attributes=("sex",), resamples=100))
    turned = table.iloc[::-1].reset_index(drop=True)
    assert scatter_plot(turned, audit).svg == scatter_plot(table, audit).svg
