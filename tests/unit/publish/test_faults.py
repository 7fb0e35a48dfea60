"""A tenth of the faults of `make campaign-publish-faults`, another one with each turn."""

from __future__ import annotations

import pytest

from tests.campaigns.publish_faults import all_cases, open_bench, run_case
from tests.harness import tenth


@pytest.fixture(scope="module")
def bench(azurite: str, tmp_path_factory: pytest.TempPathFactory):
    made = open_bench(azurite, tmp_path_factory.mktemp("faults"))
    yield made
    made.proxy.close()


#: The index is switched, but no answer arrives; the publisher is killed when it has just leased its blob.
ALWAYS = ("night cut-after@index#1+", "whole kill@lease#1")


@pytest.mark.slow
@pytest.mark.parametrize("case", dict.fromkeys([*ALWAYS, *tenth(all_cases())]))
def test_it_ends_whole_or_with_a_name(bench, case: str) -> None:
    row = run_case(bench, case)
    assert row["ok"], row


def test_the_campaign_has_two_hundred_faults() -> None:
    assert len(all_cases()) == len(set(all_cases())) >= 200
