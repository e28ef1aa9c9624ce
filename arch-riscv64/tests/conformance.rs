//! The conformance kit on every format.

use pgtable_conformance::conformance;
use pgtable_riscv64::{Controls, Extensions, GuestControls, Mode, Sv, SvX4};

const ALL: Extensions = Extensions { adue: true, pbmte: true, svnapot: true, rsw60t59b: true };
const OPEN: Controls = Controls { sum: true, mxr: true, extensions: ALL };
const GUEST: GuestControls = GuestControls { mxr: true, extensions: ALL };
const PBMT: Controls =
    Controls { extensions: Extensions { pbmte: true, ..Extensions::new() }, ..Controls::new() };

conformance! {
    sv39: Sv::new(Mode::Sv39, Controls::new());
    sv48: Sv::new(Mode::Sv48, PBMT);
    sv57: Sv::new(Mode::Sv57, OPEN);
    sv39_hlvx: Sv::new(Mode::Sv39, Controls::new()).for_hlvx();
    sv39x4: SvX4::new(Mode::Sv39, GuestControls::new());
    sv48x4: SvX4::new(Mode::Sv48, GUEST);
    sv57x4: SvX4::new(Mode::Sv57, GuestControls { mxr: false, extensions: ALL });
    sv48x4_hlvx: SvX4::new(Mode::Sv48, GUEST).for_hlvx();
}
