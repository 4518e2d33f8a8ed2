"""Agreement among nodes by ledger: evaluations, ratings and promotions that are voted on.

The ledger's entries and the announcements made about them are different facts and keep different
types. What follows from an agreement is reported in `evaluation`, `promotion` and `model`.
"""

from interlock_schemas.event import open_type

__all__ = ["TYPES"]

TYPES = (
    open_type(
        "consensus.ledger_started",
        "The first entry of a ledger, before which nothing is known; written by the node that "
        "founded it.",
    ),
    open_type(
        "consensus.heartbeat_recorded",
        "A member shows in the ledger that it still takes part; written by that member.",
    ),
    open_type(
        "consensus.state_synced",
        "A member caught up with the ledger's state; written by that member.",
    ),
    open_type(
        "consensus.evaluation_submitted",
        "An evaluation result was handed in for agreement, with the hash of its ledger entry; "
        "emitted by the evaluating node.",
    ),
    open_type(
        "consensus.evaluation_recorded",
        "The ledger entry of one node's evaluation result; written by the node that evaluated.",
    ),
    open_type(
        "consensus.evaluation_agreed",
        "Enough nodes measured the same for an evaluation to count; written by the node that "
        "completed the agreement.",
    ),
    open_type(
        "consensus.evaluation_disputed",
        "Nodes measured a model too differently to agree; written by the node that noticed.",
    ),
    open_type(
        "consensus.elo_recorded",
        "The ledger entry of a rating as one node computed it; written by that node.",
    ),
    open_type(
        "consensus.elo_agreed",
        "The members settled on one rating; written by the node that completed the agreement.",
    ),
    open_type(
        "consensus.promotion_proposed",
        "A node proposed a model for promotion and asks for votes; written by the proposer.",
    ),
    open_type(
        "consensus.promotion_voted",
        "A member voted on a proposed promotion; written by the voter.",
    ),
    open_type(
        "consensus.promotion_decided",
        "The votes on a proposed promotion suffice for a decision, either way; written by the "
        "node that counted the last one.",
    ),
    open_type(
        "consensus.promotion_certified",
        "A decided promotion got the certificate that anyone can verify; written by the node that "
        "issued it.",
    ),
    open_type(
        "consensus.promotion_approved",
        "A vote went in favour of a promotion, which may now be carried out; emitted by the "
        "promotion controller that asked for it.",
    ),
)
