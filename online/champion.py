"""The model of the moment, and those before it that a replay asks for by name."""

import logging
from collections.abc import Callable

from online.bundle import BundleRefused
from online.keys import KeyRefused
from online.scoring import RulesScorer, Scorer

REMEMBERED = 4
"""Scorers kept: a replay that crosses a promotion needs two of them, of a megabyte each."""

log = logging.getLogger(__name__)


class Champion:
    """Who scores. Until a bundle is published the rules do."""

    def __init__(self) -> None:
        self.scorer: Scorer | RulesScorer = RulesScorer()
        self._remembered: dict[str, Scorer | RulesScorer] = {self.scorer.version: self.scorer}
        self.load: Callable[[str], Scorer] = _nobody
        """Reads a model by its version; set by whoever knows where models are."""

    def becomes(self, scorer: Scorer | RulesScorer) -> None:
        """Let another score from the next turn on."""
        self._remember(scorer)
        self.scorer = scorer

    def named(self, version: str) -> Scorer | RulesScorer:
        """Return the scorer of a version; where it can't be had any more, say so and return the one of the moment."""
        if version not in self._remembered:
            try:
                self._remember(self.load(version))
            except (BundleRefused, KeyRefused) as error:
                log.error("model %s scored here and can't be had any more, %s scores in its place: %s",
                          version, self.scorer.version, error)  # fmt: skip
                self._remembered[version] = self.scorer
        return self._remembered[version]

    def _remember(self, scorer: Scorer | RulesScorer) -> None:
        self._remembered[scorer.version] = scorer
        while len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]


def _nobody(version: str) -> Scorer:
    raise BundleRefused(f"{version}: nobody here knows where models are")
