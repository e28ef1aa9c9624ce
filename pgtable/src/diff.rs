//! What changed between two trees: a live one and its snapshot, before and after a migration, ours
//! and a guest's.

use core::ops::ControlFlow;

use crate::address::Address;
use crate::error::RangeError;
use crate::format::{Format, Input, Output};
use crate::iterate::LeafIter;
use crate::memory::ReadMemory;
use crate::walk::{LeafOf, Walker};

/// One side of a [`Change`]: where the range went, and with which attributes; `None` if it was not
/// mapped.
pub type Side<F> = Option<(Output<F>, <F as Format>::Attributes)>;

/// A range that two trees translate differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<F: Format> {
    /// The first address.
    pub input: Input<F>,
    /// The length in bytes.
    pub bytes: u64,
    /// What the first tree says.
    pub before: Side<F>,
    /// What the second tree says.
    pub after: Side<F>,
}

/// The rest of a leaf that is not compared yet.
struct Pending<'m, F: Format, M> {
    leaves: LeafIter<'m, F, M>,
    leaf: Option<LeafOf<F>>,
}

impl<F: Format, M: ReadMemory<Output<F>>> Pending<'_, F, M> {
    fn fill(&mut self) -> Result<Option<&LeafOf<F>>, RangeError<Input<F>>> {
        if self.leaf.is_none() {
            self.leaf = self.leaves.next().transpose()?;
        }
        Ok(self.leaf.as_ref())
    }

    /// Takes `bytes` bytes off the front.
    fn advance(&mut self, bytes: u64) {
        self.leaf = self.leaf.filter(|leaf| leaf.bytes > bytes).and_then(|leaf| {
            let (input, output) = (leaf.input.checked_add(bytes)?, leaf.output.checked_add(bytes)?);
            Some(LeafOf::<F> { input, output, bytes: leaf.bytes - bytes, ..leaf })
        });
    }
}

fn side<F: Format>(leaf: &LeafOf<F>) -> Side<F> {
    Some((leaf.output, leaf.attributes))
}

impl<F: Format, M: ReadMemory<Output<F>>> Walker<F, M> {
    /// Calls `visit` for each range in the `bytes` bytes from `input` on that `after` translates
    /// differently, in order, until it breaks.
    ///
    /// The size of leaves does not count, what they say does: a split leaf is no change, a dirty
    /// bit is one.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: arena, tables, tree, gather);
    /// # let before = tree.walker().snapshot(arena.memory::<Gpa>(), &tables)?;
    /// tree.unmap(Gva::new(0x5000), 0x1000, &mut gather)?;
    /// let mut changed = Vec::new();
    /// let _ = before.walker().diff(&tree.walker(), Gva::new(0), 1 << 30, |change| {
    ///     changed.push((change.input, change.bytes));
    ///     ControlFlow::<()>::Continue(())
    /// })?;
    /// assert_eq!(changed, [(Gva::new(0x5000), 0x1000)]);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`for_each`](Self::for_each), for either tree.
    pub fn diff<M2: ReadMemory<Output<F>>, B>(
        &self,
        after: &Walker<F, M2>,
        input: Input<F>,
        bytes: u64,
        mut visit: impl FnMut(Change<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        let mut before = Pending { leaves: self.iter(input, bytes)?, leaf: None };
        let mut after = Pending { leaves: after.iter(input, bytes)?, leaf: None };
        loop {
            let change = match (before.fill()?, after.fill()?) {
                (None, None) => return Ok(ControlFlow::Continue(())),
                (Some(one), None) => Change {
                    input: one.input,
                    bytes: one.bytes,
                    before: side::<F>(one),
                    after: None,
                },
                (None, Some(two)) => Change {
                    input: two.input,
                    bytes: two.bytes,
                    before: None,
                    after: side::<F>(two),
                },
                (Some(one), Some(two)) => {
                    let apart = two.input.get().abs_diff(one.input.get());
                    if one.input < two.input {
                        let bytes = one.bytes.min(apart);
                        Change { input: one.input, bytes, before: side::<F>(one), after: None }
                    } else if two.input < one.input {
                        let bytes = two.bytes.min(apart);
                        Change { input: two.input, bytes, before: None, after: side::<F>(two) }
                    } else {
                        let bytes = one.bytes.min(two.bytes);
                        Change {
                            input: one.input,
                            bytes,
                            before: side::<F>(one),
                            after: side::<F>(two),
                        }
                    }
                }
            };
            if change.before.is_some() {
                before.advance(change.bytes);
            }
            if change.after.is_some() {
                after.advance(change.bytes);
            }
            if change.before != change.after {
                if let ControlFlow::Break(value) = visit(change) {
                    return Ok(ControlFlow::Break(value));
                }
            }
        }
    }
}
