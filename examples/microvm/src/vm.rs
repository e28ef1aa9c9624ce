//! What an architecture brings to the program: its machine.
//!
//! The program is the same on each: tables of rows, a guest that makes accesses, a walker beside
//! it, changes, teardown. An architecture adds how its faults read, how a process is run, and how
//! the guest is asked.

use std::fmt::{Debug, Display};
use std::io;

use frag_alloc::FrameSource;
use pgtable::format::{Entry, Format};
use pgtable::invalidate::Invalidate;
use pgtable::memory::GuestTables;
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Gva, Stage1};
use probe_guest::Probe;
use vm_memory::GuestMemoryMmap;

use crate::allows::Allows;
use crate::check::{Answer, Check, Checker};
use crate::look::Finds;
use crate::report::{Failure, Report};
use crate::space::TableFrames;

/// What every architecture's machine has: the guest's memory, and what our libraries keep there.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub memory: &'a GuestMemoryMmap,
    /// The same memory, as tables stand in it.
    pub tables: &'a GuestTables<'a, Gpa>,
    pub frames: &'a TableFrames<'a>,
}

/// How the guest ended an access.
pub enum Ended<F> {
    /// It was done; the value that was loaded, stored, or returned.
    Done(u64),
    /// It took this fault, about its own address, in its own mode.
    Faulted(F),
    /// Anything else, in words.
    Odd(String),
}

/// An edit of one entry that the guest makes itself: the address of the entry, and the word.
pub struct Edit {
    /// The address to load from.
    pub address: Gva,
    /// Where the guest finds the entry.
    pub entry: Gva,
    pub word: u64,
    /// log2 of the page's bytes.
    pub shift: u8,
}

/// Which page is edited from inside.
pub struct EditedPage {
    pub pid: u32,
    pub at: u64,
    /// Where it is and where it moves to, and what stands there.
    pub places: [(u64, u64); 2],
    /// Where the guest finds its tables, less their guest-physical address.
    pub linear: u64,
    pub allows: Allows,
}

/// A microVM, borrowed in parts: invalidation runs the guest while a space is being changed.
pub trait Vm<'a>: Copy {
    /// A fault as the architecture reports it.
    type Fault: Clone + PartialEq + Debug + Display;
    type Format: Format<Stage = Stage1>;
    type Shootdown: Invalidate<Stage1, Identity = u32>;

    /// What invalidates.
    const INSTRUCTIONS: &'static str;
    /// The loads by which the processor is made to remember a translation.
    const TOUCHES: &'static [Access];
    /// Which page is edited from inside.
    const EDITED: EditedPage;

    fn parts(&self) -> Parts<'a>;

    /// How many invalidating instructions the guest has run.
    fn sent(&self) -> usize;

    /// The process that looks at what `pid` maps.
    fn looker(pid: u32) -> u32 {
        pid
    }

    /// The fault of an access to a place that is not what [`Finds::Page`] allows.
    fn refusal(finds: Finds, access: Access) -> Self::Fault;

    /// Lets the guest run a process.
    fn run_process(&self, pid: u32) -> Result<(), Failure>;

    /// Has the guest make an access, and says what was seen of it.
    fn probe(&self, probe: &Probe) -> io::Result<(Ended<Self::Fault>, String)>;

    /// A function, another for each `number`, and what it returns if it is called with `value`.
    fn function(&self, number: u64, value: u64) -> (Vec<u8>, u64);

    /// What the software walker says.
    fn translate(
        &self,
        pid: u32,
        address: Gva,
        access: Access,
    ) -> Result<Answer<Self::Fault>, Failure>;

    /// The entries of a walk: level, address, word.
    fn trace(&self, pid: u32, address: Gva) -> Result<Vec<(i8, Gpa, u64)>, Failure>;

    /// What another walker says of a check, if that is not as it should be.
    fn third_opinion(&self, check: &Check<Self::Fault>) -> Result<Option<String>, Failure> {
        let _ = check;
        Ok(None)
    }

    /// The entry that translates an address, as it would be if it led to `to`.
    fn moved(&self, pid: u32, at: Gva, to: Gpa) -> Result<(Gpa, u64, u8), Failure>;

    /// Has the guest load, store the entry, load again, invalidate, and load again; what it loaded,
    /// or in words what came instead.
    fn edit(&self, pid: u32, edit: &Edit) -> io::Result<Result<[u64; 3], String>>;

    /// Makes the guest forget a process before its tree is destroyed.
    fn leave(&self, pid: u32) -> Result<(), Failure>;

    /// Looks around after a process's tree was destroyed.
    fn left(
        &self,
        pid: u32,
        checker: &mut Checker<'a, Self>,
        report: &mut Report,
    ) -> Result<(), Failure>;
}

/// [`Vm::moved`] by a walker.
pub fn moved<F: Format<Stage = Stage1>>(
    walker: &Walker<F, &GuestTables<'_, Gpa>>,
    at: Gva,
    to: Gpa,
) -> Result<(Gpa, u64, u8), Failure> {
    let leaf = walker.trace(at).pop().ok_or("nothing to edit")?;
    let Entry::Leaf { attributes, .. } = leaf.entry else { return Err("no leaf to edit".into()) };
    let word = walker.format().leaves(to, attributes, leaf.at)?.first;
    Ok((leaf.address, word, leaf.at.shift))
}

/// [`Vm::trace`] by a walker.
pub fn traced<F: Format<Stage = Stage1>>(
    walker: &Walker<F, &GuestTables<'_, Gpa>>,
    address: Gva,
) -> Vec<(i8, Gpa, u64)> {
    let trace = walker.trace(address);
    trace.iter().map(|entry| (F::level_number(entry.at.level), entry.address, entry.word)).collect()
}

/// Where the frames of tables are, in words.
pub fn span(frames: &TableFrames<'_>) -> (u32, String) {
    let span = frames.source().span();
    (span.frames, format!("{} frames from gpa {:#x} on", span.frames, span.start.get()))
}
