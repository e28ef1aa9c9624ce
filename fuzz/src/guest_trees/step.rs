//! A step of a guest's tree: verbs by its one writer, or by one of two.

use std::mem;
use std::ops::ControlFlow;
use std::rc::Rc;

use arbitrary::{Result, Unstructured};
use pgtable::format::Format;
use pgtable::invalidate::{Gather, Unused};
use pgtable::shared::SharedPageTable;
use pgtable::{Access, Error, Gpa, Gva, RangeError, Stage1};

use super::memory::Store;
use super::verb::{Verb, common, fine};
use super::{Shared, Tree};

/// Whether verbs are done within a locked range, and how that ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    No,
    Drop,
    Finish,
    Forget,
}

impl Hold {
    fn of(byte: u8) -> Self {
        [Self::No, Self::Drop, Self::Finish, Self::Forget][usize::from(byte & 3)]
    }
}

/// What the second writer does after so many accesses of the first.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    after: u8,
    hold: Hold,
    verb: Verb,
}

impl Turn {
    fn of(input: &mut Unstructured<'_>, page: u64) -> Result<Self> {
        let (after, hold) = (input.arbitrary()?, Hold::of(input.arbitrary()?));
        Ok(Self { after, hold, verb: Verb::of(input, page) })
    }

    pub(super) fn after(&self) -> usize {
        self.after.into()
    }
}

/// Some stores of the guest's, now and in the middle of what follows; then verbs, by the tree's one
/// writer or by one of two. `None` if that was its end.
pub(super) fn step<F: Format<Stage = Stage1>>(
    tree: Tree<F>,
    input: &mut Unstructured<'_>,
) -> Option<Tree<F>> {
    let count = input.arbitrary::<u8>().unwrap_or(0) % 4;
    tree.memory().begin((0..count).map_while(|_| Store::of(input).ok()).collect());
    let page = 1u64 << tree.format().geometry().page_shift();
    let how = input.arbitrary::<u8>().unwrap_or(0);
    let verb = Verb::of(input, page);
    let tree = if how & 1 == 0 {
        alone(tree, verb)
    } else {
        let turns = (0..how >> 1 & 3).map_while(|_| Turn::of(input, page).ok()).collect();
        let hold = Hold::of(how >> 3);
        // Within the range of the first, or not.
        let more = if hold == Hold::No { 0 } else { how >> 5 & 3 };
        let verbs: Vec<_> =
            [verb].into_iter().chain((0..more).map(|_| Verb::of(input, page))).collect();
        Some(shared(tree, turns, hold, &verbs))
    };
    tree.inspect(|tree| tree.memory().end())
}

pub(super) fn destroy<F: Format<Stage = Stage1>>(tree: Tree<F>) {
    tree.memory().begin(Vec::new());
    // What could not be freed is found by the end's count.
    let _ = tree.destroy(Gather::new(&Unused, ()));
}

/// The first of two writers does `verbs`, in the middle of which the second has its `turns`.
fn shared<F: Format<Stage = Stage1>>(
    tree: Tree<F>,
    turns: Vec<Turn>,
    hold: Hold,
    verbs: &[Verb],
) -> Tree<F> {
    let memory = Rc::clone(tree.memory());
    let alone = turns.is_empty();
    let shared = Rc::new(SharedPageTable::from(tree));
    let second = Rc::downgrade(&shared);
    memory.share(turns, move |turn| {
        let shared = second.upgrade().expect("it lives while it is used");
        by_writer(&shared, turn.hold, &[turn.verb], false);
    });
    by_writer(&shared, hold, verbs, alone);
    memory.end();
    Rc::into_inner(shared).expect("the second writer is gone").into_inner()
}

/// `verbs` by a writer of `shared`, which may be alone.
fn by_writer<F: Format<Stage = Stage1>>(
    shared: &Shared<F>,
    hold: Hold,
    verbs: &[Verb],
    alone: bool,
) {
    let Some(&first) = verbs.first() else { return };
    let mut gather = Gather::new(&Unused, ());
    let mut writer = shared.writer().expect("one of two");
    if hold == Hold::No {
        fine(common!(writer, first, &mut gather), !alone);
    } else {
        match writer.lock(first.input(), first.bytes) {
            Err(error) => fine(Err(error), !alone),
            Ok(mut range) => {
                for &verb in verbs {
                    let done = common!(range, verb, &mut gather);
                    let outside = matches!(done, Err(RangeError { error: Error::Range, .. }));
                    assert_eq!(outside, !verb.is_within(first), "within the range or not");
                }
                match hold {
                    Hold::Finish => range.finish(&mut gather),
                    Hold::Forget => mem::forget(range),
                    Hold::Drop | Hold::No => drop(range),
                }
            }
        }
    }
    let _ = writer.translate(first.input(), Access::WRITE);
    drop(writer);
    // A guest's second way to a table can be refused here.
    let _ = gather.finish(shared.tables());
}

/// `verb` by the one writer of `tree`. `None` if it destroyed the tree.
fn alone<F: Format<Stage = Stage1>>(mut tree: Tree<F>, verb: Verb) -> Option<Tree<F>> {
    let mut gather = Gather::new(&Unused, ());
    if verb.what & 0x30 != 0x30 {
        fine(common!(tree, verb, &mut gather), false);
        let _ = gather.finish(tree.tables());
        return Some(tree);
    }
    let (input, bytes) = (verb.input(), verb.bytes);
    match verb.what & 15 {
        0..3 => {
            let (output, attributes) = (verb.output(), verb.prot().into());
            let done = tree.remap(input, output, bytes, attributes, verb.leaves(), &mut gather);
            fine(done, false);
        }
        3..6 => {
            let mut cursor = tree.cursor(&mut gather);
            for index in 0..8 {
                let (input, output) = (verb.at + index * verb.page, verb.at + index * verb.page);
                let _ = if index % 3 == 0 {
                    cursor.unmap(Gva::new(input)).map(drop)
                } else {
                    cursor.map(Gva::new(input), Gpa::new(output), verb.prot().into())
                };
            }
            let _ = cursor.finish();
        }
        6 | 7 => {
            let mut asked = 0;
            let which = |_, _| {
                asked += 1;
                assert!(asked <= 1 << 16, "relocate asks for too many tables");
                asked % 2 == 0
            };
            let _ = tree.relocate(which, &mut gather);
        }
        8 => drop(tree.relocate_root(|_| {}, &mut gather)),
        9 => {
            let (memory, tables) = (Rc::clone(tree.memory()), tree.tables().clone());
            if let Ok(copy) = tree.walker().snapshot(memory, tables) {
                // Two trees of one allocator.
                let _ = copy.destroy(Gather::new(&Unused, ()));
            }
        }
        10 => tree.keep_last_empty(verb.what & 0x40 == 0),
        11 => drop(tree.trim(&mut gather)),
        12..15 => {
            let walker = tree.walker();
            let visited = walker.for_each(input, bytes, |_| ControlFlow::<()>::Continue(()));
            fine(visited.map(drop), false);
            let kept =
                walker.for_each_annotation(input, bytes, |_| ControlFlow::<()>::Continue(()));
            fine(kept.map(drop), false);
            let _ = walker.access(input, Access::WRITE);
        }
        _ => {
            drop(gather);
            destroy(tree);
            return None;
        }
    }
    let _ = gather.finish(tree.tables());
    Some(tree)
}
