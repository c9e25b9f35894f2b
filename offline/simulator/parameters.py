"""Every number of the simulated fabric: its unit, and its source or "assumed".

Sources, as short names: *Seren* is AcmeTrace's Seren cluster (NSDI'24, `data/acme-seren-ib-cdf.csv`); *Alibaba* is
arXiv 2603.03736 (0.057 % of NIC-to-ToR links fail a month, a flap every 48 s on ten million links); *CorrOpt* is
SIGCOMM'17; *Lablup* is arXiv 2605.09370 (3 of 63 nodes take half of all exclusions); *kernel* is Linux' sysfs ABI.
"Assumed" says that no public figure was found: treat it as a knob, and test a model on other values of it.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Profile = Literal["train", "true"]
Scope = Literal["end", "link", "host", "leaf", "uplinks", "job"]


class Fault(NamedTuple):
    """How often one class strikes, whom, how long, and whether it shows beforehand."""

    per_year: float  # incidents per year of one `unit`
    unit: Literal["link", "port", "host"]
    is_frail: bool  # weak links get more of it: one Gamma draw a link, shared by all such classes
    train_factor: float  # `train` multiplies the rate by it, for some 25 to 100 incidents in 300 ports × 3 days
    predictable: float  # share of incidents with a visible precursor; the rest is abrupt, by construction
    precursor_min: tuple[float, float]  # length of the precursor, uniform between the two, minutes
    median_min: float  # of the log-normal duration, minutes
    sigma: float  # of the log-normal duration
    scope: Scope  # who is struck together
    needs_job: bool  # only a port under load suffers it, so that it starts within a job


# Durations, shares and scopes are assumed, as are the rates that name no source.
# fmt: off
FAULTS: dict[str, Fault] = {
    # Rates of flaps and of links that stay down: Alibaba.
    # Columns:                       per_year  unit   frail  train  pre  precursor  median sigma scope     job
    "connection_instability":      Fault(0.066,  "link", True,   600, 0.5, (30, 720),    6, 1.0, "link",    False),
    "packet_loss_detected":        Fault(0.02,   "link", True,  1500, 0.7, (10, 240), 1080, 1.0, "end",     False),
    "rdma_timeout":                Fault(0.01,   "port", False, 5000, 0.3, (5, 60),     15, 1.0, "link",    False),
    "hard_down":                   Fault(0.0068, "link", True,  2000, 0.4, (30, 360),  480, 1.0, "link",    False),
    "bandwidth_throttling":        Fault(0.05,   "link", True,  1500, 0.3, (20, 120),  300, 1.2, "link",    True),
    "performance_degradation":     Fault(0.3,    "port", False, 1200, 0.5, (20, 90),    90, 1.0, "host",    False),
    "latency_spike":               Fault(12.0,   "port", False,   30, 0.6, (1, 5),       2, 0.8, "leaf",    False),
    "resource_saturation":         Fault(4.0,    "port", False,   40, 0.8, (1, 10),      8, 1.0, "uplinks", False),
    "qp_error_rate_high":          Fault(1.5,    "port", False, 1500, 0.2, (2, 20),      3, 0.8, "job",     True),
    "memory_registration_failure": Fault(0.1,    "host", False, 9000, 0.1, (5, 30),     20, 1.0, "host",    True),
    "anomaly_detected":            Fault(0.5,    "port", False,  200, 0.3, (10, 60),    30, 1.0, "leaf",    False),
}
# fmt: on


class Decoy(NamedTuple):
    """What looks like a fault and is none."""

    per_year: float  # of one `unit`; at least ten times the rate of the faults it resembles
    unit: Literal["port", "host", "leaf", "fabric"]
    train_factor: float
    median_min: float  # of the log-normal duration, minutes
    sigma: float
    source: str


DECOYS: dict[str, Decoy] = {
    "prober_noise": Decoy(150, "host", 4, 0.5, 0.3, "assumed; the main false positive of R-Pingmesh"),
    "drain": Decoy(12, "leaf", 8, 120, 0.7, "assumed"),
    "reboot": Decoy(4, "host", 20, 5, 0.4, "assumed; research table"),
    "cable_burn_in": Decoy(1.4, "port", 40, 120, 0.5, "assumed; ten times the link faults"),
    "counter_clear": Decoy(12, "fabric", 10, 0.01, 0.1, "assumed; an operator once a month"),
    "firmware_wave": Decoy(4, "fabric", 10, 1440, 0.1, "assumed; once a quarter: a drift, not a fault"),
    "host_gap": Decoy(180, "host", 1, 4, 0.9, "assumed; half a gap per port and day, some 8 samples of 30 s"),
    "sweep_timeout": Decoy(180, "leaf", 1, 1, 0.5, "assumed; cf. guilbaults/infiniband_exporter#12"),
}
# Job starts and ends, checkpoints, idle ports and clock steps are decoys too: they are always there (below).


@dataclass(frozen=True)
class Parameters:
    """The rest of the constants. `dataclasses.replace` makes the changed constants of a fair last test."""

    # Load
    idle_share: float = 0.655  # fraction of samples under 1 % of line rate; Seren
    job_median_min: float = 20.0  # minutes, log-normal; assumed
    job_sigma: float = 2.0  # assumed
    job_max_min: float = 360.0  # minutes; assumed: longer ones restart from a checkpoint
    job_hosts: tuple[int, ...] = (1, 1, 1, 2, 2, 4, 12)  # of a slot, drawn alike; 12 is 60 % of a leaf; assumed
    job_share_max: float = 0.25  # fraction of all hosts in one slot, so that small fabrics have several; assumed
    day_swing: float = 0.15  # ± fraction of load over the day, highest at 15:00 UTC; assumed
    weekend_drop: float = 0.20  # fraction of load; assumed
    checkpoint_every_min: float = 30.0  # minutes; assumed
    checkpoint_s: float = 60.0  # seconds; assumed
    checkpoint_factor: float = 1.5  # of the job's load; assumed
    # Collectives of 5-30 s are shorter than a sample or near it: they are the noise of the interval's mean.
    job_noise: float = 0.10  # log-normal sigma per sample, shared by all rails of a job; assumed
    rail_noise: float = 0.03  # log-normal sigma per sample and link: rails correlate at .9; assumed
    packet_bytes: float = 2048.0  # mean of data packets, octets; assumed
    background_packets_s: float = (
        200.0  # per second and direction, probes and subnet management of an idle link; assumed
    )
    background_bytes: float = 128.0  # octets of such a packet; assumed
    # Latency, as an active prober sees it
    latency_ib_us: float = 2.5  # median of the ports' base latency, InfiniBand, µs; assumed
    latency_roce_us: float = 6.0  # the same, RoCE, µs; assumed
    latency_port_sigma: float = 0.15  # log-normal spread of that base over ports; assumed
    latency_noise: float = 0.08  # standard deviation of the logarithm, AR(1); assumed
    latency_phi: float = 0.9  # of that AR(1), per 30 s; assumed
    latency_queue: float = 0.05  # c of 1 + c·u/(1 − u), u the utilization as a fraction; assumed
    # Errors of healthy ports
    ber_log10: tuple[float, float] = (-16.0, -13.0)  # log-uniform bit error rate after FEC; assumed
    qp_error_share: float = 0.005  # fraction of minutes with any queue-pair error; assumed
    qp_error_mean: float = 2.0  # mean of the geometric count in such a minute; assumed
    job_end_share: float = 0.2  # fraction of job ends with 1-50 ACK timeouts; assumed
    # Faults
    rate_factor: float = 1.0  # on every fault rate
    decoy_factor: float = 1.0  # on every decoy rate
    is_train: bool = False  # whether the train factors of both tables apply
    frailty_shape: float = 0.15  # Gamma shape, mean 1: 4.8 % of links carry half of the events; fitted to Lablup
    precursor_strength: float = 1.0  # on the (logarithmic) size of every precursor
    # Collection
    jitter: float = 0.10  # ± fraction of the period; assumed
    classic_share: float = (
        0.1  # fraction of nodes read with the classic narrow error counters (4-16 bits, kernel); assumed
    )
    near_wrap_share: float = 0.02  # fraction of the 32-bit counters that start within 100 of their top; assumed
    stuck_share: float = 0.01  # fraction of the stick counters that start at their maximum; assumed
    missing_share: float = 0.01  # fraction of single samples; assumed
    repeat_share: float = 0.001  # fraction of events sent twice; assumed
    late_share: float = 0.01  # fraction of events that come late, by exp(20 s); assumed
    late_mean_s: float = 20.0
    very_late_share: float = 0.0001  # fraction of events late by up to an hour; assumed
    very_late_max_s: float = 3600.0
    clock_sigma_s: float = 0.3  # standard deviation of a node's clock offset; assumed
    clock_far_share: float = 0.01  # fraction of nodes 1-120 s off until corrected; assumed
    clock_step_days: float = 30.0  # mean time to a correction step; assumed

    def fault_per_year(self, name: str) -> float:
        """Return the rate of a fault class in this profile, incidents per year of its unit."""
        fault = FAULTS[name]
        return fault.per_year * self.rate_factor * (fault.train_factor if self.is_train else 1.0)

    def decoy_per_year(self, name: str) -> float:
        """Return the rate of a decoy in this profile, per year of its unit."""
        decoy = DECOYS[name]
        return decoy.per_year * self.decoy_factor * (decoy.train_factor if self.is_train else 1.0)


TRUE = Parameters()
# A learner needs many weak links, not the few that Gamma(.15) makes: `train` flattens frailty. Never report on it.
TRAIN = replace(TRUE, is_train=True, frailty_shape=2.0)
PROFILES: dict[Profile, Parameters] = {"true": TRUE, "train": TRAIN}
