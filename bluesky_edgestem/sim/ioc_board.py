"""Soft-IOC of the inference board: the model it has, what went through it, and its results."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from ..fpga.results import COLUMNS
from ..fpga.rule import QUANTITIES, Rule
from ..fpga.shipped import folder_of
from ..fpga.student import MOST_ELECTRONS
from .board import EDGES, KEPT, Board, Model
from .records import Records, RefusedWrite, array, choice, integer, number, setting, text

PERIOD = 0.02
"""Time [s] between two looks at what the board has done."""
CONNECT = 2.0
"""Time [s] that the detector's stream has to answer."""


class BoardIOC(Records):
    """Inference board on the detector's stream. The model is the folder of a build by `edgestem fpga build`."""

    model, model_rbv = setting(text, "Model", "", "Folder of the build that is loaded")
    model_hash = text("ModelHash_RBV", "", "Of the network that is loaded", read_only=True)
    phases = text("Phases_RBV", "", "That the network tells apart", read_only=True)
    energy = number("Energy_RBV", 0.0, "keV", "Energy of the electrons that it was built for", read_only=True)
    semiangle = number("Semiangle_RBV", 0.0, "mrad", "Semiangle that it was built for", read_only=True)
    pixel = number("PixelAngle_RBV", 0.0, "mrad", "Angle of a pixel that it was built for", read_only=True)
    frame_size = integer("FrameSize_RBV", 0, "Pixels along each side of the frames it was built for", read_only=True)
    electrons, electrons_rbv = setting(
        number, "Electrons", 1e4, "", "Electrons that a pattern is expected to have", low=1e-3, high=MOST_ELECTRONS
    )
    run, run_rbv = setting(choice, "Run", "Stopped", ("Stopped", "Running"), "Take the stream; counts begin anew")
    rule, rule_rbv = setting(
        choice, "Rule", "Off", ("Off", *QUANTITIES), "Which result has it ask the coils for four positions around it"
    )
    rule_low, rule_low_rbv = setting(number, "RuleLow", 0.0, "", "Range of the rule: from", low=-1, high=1)
    rule_high, rule_high_rbv = setting(number, "RuleHigh", 0.0, "", "Range of the rule: to", low=-1, high=1)
    rule_side, rule_side_rbv = setting(
        choice, "RuleSide", "Outside", ("Outside", "Inside"), "Where the rule holds: outside of its range, or inside"
    )
    rule_spacing, rule_spacing_rbv = setting(
        number, "RuleSpacing", 1.0, "nm", "How far the positions are from the one they are around", low=1e-3, high=1e3
    )
    rule_hits = integer("RuleHits_RBV", 0, "Results for which the rule held", read_only=True)
    rule_lost = integer("RuleLost_RBV", 0, "Of these, those that the line to the coils did not take", read_only=True)
    stream = text("Stream_RBV", "", "Address of the detector's stream", read_only=True)
    state = choice("State_RBV", "Idle", ("Idle", "Running", "Error"), "What the board does", read_only=True)
    frames_in = integer("FramesIn_RBV", 0, "Frames that came", read_only=True)
    results_out = integer("ResultsOut_RBV", 0, "Results that were given", read_only=True)
    dropped = integer("Dropped_RBV", 0, "Frames that never came, between others that did", read_only=True)
    refused_frames = integer("Refused_RBV", 0, "Frames that were damaged, or not as announced", read_only=True)
    latency_edges = array("LatencyEdges_RBV", len(EDGES), "s", "Edges of the latency histogram's bins", read_only=True)
    latency = array("Latency_RBV", len(EDGES) - 1, "", "Results by the time that this simulator took", read_only=True)
    results = array(
        "Results_RBV", KEPT * len(COLUMNS), "", f"The latest results, in rows of: {', '.join(COLUMNS)}", read_only=True
    )
    self_test = choice("SelfTest", "Done", ("Done", "Test"), "Run the golden frames of the build; busy until it ends")
    self_test_result = choice(
        "SelfTest_RBV", "Not run", ("Not run", "Passed", "Failed"), "Of the golden frames", read_only=True
    )
    message = text("Message_RBV", "", "Why a write was refused, a frame was, or the test failed", read_only=True)

    def __init__(self, prefix: str, *, board: Board) -> None:
        super().__init__(prefix)
        self.board = board
        self.ready = asyncio.Event()
        """Whether the records say which model there is: before, nobody should be told to connect."""

    @state.startup
    async def state(self, instance, async_lib):
        await self.stream.write(self.board.address)
        await self.latency_edges.write(EDGES)
        await self._tell_model()
        self.ready.set()
        told: tuple = ()
        while True:
            await asyncio.sleep(PERIOD)
            counts = self.board.counts
            now = (counts, counts.frames_in, counts.results_out, counts.refused, counts.dropped, self.board.failure)
            if now != told:
                told = now
                await self._tell()

    async def _tell_model(self) -> None:
        student = self.board.model.student
        for record, value in (
            (self.model_rbv, str(self.board.model.folder)),
            (self.model_hash, student.hash),
            (self.phases, " ".join(student.phases)),
            (self.energy, student.optics.energy_keV),
            (self.semiangle, student.optics.semiangle_mrad),
            (self.pixel, student.optics.pixel_mrad),
            (self.frame_size, student.optics.n_pixels),
            (self.self_test_result, "Not run"),
        ):
            await record.write(value)

    async def _tell(self) -> None:
        """Publish results, then counts: who has seen a count has been sent its results."""
        counts = replace(self.board.counts)  # before the results: those go on meanwhile
        latest = self.board.latest
        if len(latest):
            await self.results.write(latest.ravel())
        await self.latency.write(counts.latency.copy())
        for record, value in (
            (self.frames_in, counts.frames_in),
            (self.dropped, counts.dropped),
            (self.refused_frames, counts.refused),
            (self.rule_hits, counts.hits),
            (self.rule_lost, counts.unasked),
            (self.results_out, counts.results_out),
        ):
            if record.value != value:
                await record.write(value)
        if self.board.failure:
            await self.say(self.board.failure)
            await self.state.write("Error")
        elif counts.refusal:
            await self.say(counts.refusal)

    @model.putter
    async def model(self, instance, value):
        if self.board.running:
            raise RefusedWrite("the board runs; write Stopped to Run first")
        try:
            self.board.model = await asyncio.to_thread(Model.load, folder_of(value))
        except ValueError as error:
            raise RefusedWrite(str(error)) from None
        self.board.rule = None  # its words were those of another model
        await self.rule.write("Off")
        await self._tell_model()
        return value

    @electrons.putter
    async def electrons(self, instance, value):
        self.board.electrons = value
        await self.electrons_rbv.write(value)
        return value

    @rule.putter
    async def rule(self, instance, value):
        """Make the rule of the range that is set; a change of the range counts once the rule is written."""
        try:
            if value != "Off" and self.board.ask is None:
                raise RefusedWrite(
                    "there is no line to the scan coils; start the board with --queue, the path of theirs"
                )
            self.board.rule = None if value == "Off" else self._rule(value)
        except RefusedWrite:
            raise
        except ValueError as error:
            raise RefusedWrite(str(error)) from None
        self.board.spacing = float(self.rule_spacing.value)
        await self.rule_rbv.write(value)
        return value

    def _rule(self, quantity: str) -> Rule:
        low, high, inside = self.rule_low.value, self.rule_high.value, self.rule_side.value == "Inside"
        return Rule.of(self.board.model.student, quantity, low, high, inside)

    @run.putter
    async def run(self, instance, value):
        if value == "Running":
            await asyncio.to_thread(self.board.start)
            await self.results.write(np.zeros(1))
            for _ in range(int(CONNECT / PERIOD)):
                if self.board.connected:
                    break
                await asyncio.sleep(PERIOD)
            else:
                await asyncio.to_thread(self.board.stop)
                raise RefusedWrite(f"nothing answers at {self.board.address}, the detector's stream")
        else:
            await asyncio.to_thread(self.board.stop)
        await self.state.write("Running" if value == "Running" else "Idle")
        await self.run_rbv.write(value)
        return value

    @self_test.putter
    async def self_test(self, instance, value):
        if value == "Test":
            if self.board.running:
                raise RefusedWrite("the board runs; write Stopped to Run first")
            await instance.write("Test", verify_value=False)
            await self.self_test_result.write("Not run")
            complaint = await asyncio.to_thread(self.board.model.test)
            await self.say(complaint)
            await self.self_test_result.write("Failed" if complaint else "Passed")
        return "Done"
