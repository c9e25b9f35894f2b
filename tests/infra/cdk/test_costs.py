"""The bill of docs/deploy.md: printed by the command, its arithmetic right, its prices with their source."""

from dataclasses import replace
from pathlib import Path

import pytest

from infra.cdk.costs import PRICES, Load, bill, page

DEPLOY = (Path(__file__).parents[3] / "docs" / "deploy.md").read_text("utf-8")


def test_the_page_shows_what_the_command_prints():
    assert page() in DEPLOY, "docs/deploy.md is behind: put in what `python -m infra.cdk.costs` prints"


def test_only_what_a_page_of_ours_has_is_called_documented():
    documented = {name for name, price in PRICES.items() if price.source == "documented"}

    assert documented == {"bedrock_in", "bedrock_out"}


def test_each_line_is_what_its_arithmetic_says():
    for line in bill(Load(ports=10_000)):
        usd = 1.0
        for factor in line.how.split(" × "):
            usd *= float(factor.split()[0].lstrip("$").replace(",", ""))
        assert usd == pytest.approx(line.usd, rel=2e-3)  # factors are shown with four digits


def test_ten_thousand_ports_make_the_events_of_the_issue():
    assert Load(ports=10_000).events / 30.4 == 14_400_000  # a day


@pytest.mark.parametrize(("ports", "batches_a_second"), [(30, 0.5), (600, 1.0), (12_000, 2.0)])
def test_a_batch_is_full_or_waits_a_second(ports, batches_a_second):
    assert Load(ports=ports).batches == pytest.approx(batches_a_second * 30.4 * 86_400)


def test_a_fabric_costs_more_if_it_has_more_of_anything():
    def total(load):
        return sum(line.usd for line in bill(load))

    small = Load(ports=1_000)
    for more in ({"ports": 2_000}, {"workers": 3}, {"partitions": 9}, {"episodes_per_port_month": 2.0}):
        assert total(replace(small, **more)) > total(small)
