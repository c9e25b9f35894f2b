"""A replay is scored by the model that its events were scored by first."""

from types import SimpleNamespace

from online.models.champion import REMEMBERED, Champion


def test_the_rules_outlast_any_number_of_promotions() -> None:
    champion = Champion()
    for number in range(REMEMBERED + 1):
        champion.becomes(SimpleNamespace(version=f"m{number}"))

    assert champion.named("rules").version == "rules"


def test_a_model_that_is_asked_for_is_kept_before_those_that_nobody_asks_for() -> None:
    champion, loaded = Champion(), []

    def load(version: str) -> SimpleNamespace:
        loaded.append(version)
        return SimpleNamespace(version=version)

    champion.load = load
    for number in range(2 * REMEMBERED):
        assert champion.named("replayed").version == "replayed"
        champion.becomes(SimpleNamespace(version=f"m{number}"))

    assert loaded == ["replayed"]


def test_a_model_that_becomes_champion_again_is_the_newest() -> None:
    champion = Champion()
    models = [SimpleNamespace(version=f"m{number}") for number in range(REMEMBERED)]
    for scorer in [*models, models[0], SimpleNamespace(version="one more")]:
        champion.becomes(scorer)

    assert champion.named("m0") is models[0]
