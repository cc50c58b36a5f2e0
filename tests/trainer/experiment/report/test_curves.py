from trainer.experiment.report.part import loss_curves, sources_in
from trainer.observe.metrics import Record


def test_the_losses_of_sources_are_drawn_where_there_are_some() -> None:
    plain = {"loss": 1.0, "held_out_loss": 1.0, "lr": 1e-3}
    of_sources = {f"{loss}_{name}": 0.5 for loss in ("loss", "held_out_loss") for name in ("photos", "drawings")}
    without, beside = ([Record(step, {**plain, **more}) for step in (1, 2)] for more in ({}, of_sources))
    assert sources_in(without) == []
    assert sources_in(beside) == ["drawings", "photos"]
    assert loss_curves(beside).count("<path") > loss_curves(without).count("<path")
