//! All ways to read a tree say the same of it: one translation, a batch, a cache, a trace, a query,
//! an access that records itself, and every form of iteration. And none reads more than it may.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::cache::{Generation, TranslationCache};
use pgtable::format::{Entry, Format, Input, MAX_LEVELS, Output, TableWord as _};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::walk::{LeafOf, TranslationOf, Walker};
use pgtable::{Access, AccessKind, Address, Cause, Error, Fault, Level, RangeError, low_bits};

use crate::memory::Counted;

/// The most pages that an iteration is tried on.
const MOST_PAGES: u64 = 100;
/// More than two chunks of a batch.
const BATCH: usize = 70;

/// A tree, in memory from address 0 on.
pub struct Tree<'m, F: Format> {
    pub format: F,
    pub memory: DirectMap<'m, Output<F>>,
    pub root: Output<F>,
}

type Translated<F> = Result<TranslationOf<F>, Fault<F>>;

impl<F: Format> Tree<'_, F> {
    fn walker(&self) -> Walker<F, DirectMap<'_, Output<F>>> {
        Walker::new(self.format, self.memory, self.root)
    }

    /// Everything, at `inputs` and in the `bytes` bytes from the first of them on. Entries are
    /// marked as used.
    pub fn check(&self, inputs: &[u64], access: Access, bytes: u64) {
        let inputs: Vec<_> = inputs.iter().map(|&input| Input::<F>::new(input)).collect();
        let one_by_one: Vec<_> = inputs.iter().map(|&input| self.one(input, access)).collect();
        self.batch(&inputs, &one_by_one, access);
        self.cached(&inputs, &one_by_one, access);
        if let Some(&first) = inputs.first() {
            self.iteration(first, bytes);
            self.no_range(&inputs, bytes);
        }
        self.recorded(&inputs[..inputs.len().min(4)], access);
    }

    /// One translation: within its bound, and as the trace and the query of the same address say.
    fn one(&self, input: Input<F>, access: Access) -> Translated<F> {
        let memory = Counted::of(self.memory);
        let walker = Walker::new(self.format, &memory, self.root);
        let levels = usize::from(self.format.geometry().levels());
        let translated = walker.translate(input, access);
        assert!(memory.loads() <= 2 * levels, "{input}: more loads than two for each level");

        let trace = walker.trace(input);
        assert!(memory.loads() <= levels);
        for step in &trace {
            let held = F::Word::word_in(&self.memory, step.address).expect("it was read");
            let held = held.load_raw(Ordering::Relaxed);
            assert_eq!(F::Word::swap(F::BYTE_ORDER, held), step.word);
        }
        if let Some((_, way)) = trace.split_last() {
            assert!(
                way.iter().all(|step| matches!(step.entry, Entry::Table { .. })),
                "{input}: {trace:?}"
            );
        }
        let query = walker.query(input);
        assert!(memory.loads() <= 2 * levels, "{input}: more loads than two for each level");

        let last = trace.last();
        match translated {
            Ok(found) => {
                assert_eq!(query, Ok(Some(found)));
                let last = last.expect("a leaf was read");
                assert_eq!(last.at.shift, found.shift);
                let within =
                    self.format.offset(input).expect("it translates") & low_bits(found.shift);
                let output = Output::<F>::new(found.output.get().wrapping_sub(within));
                assert_eq!(last.entry, Entry::Leaf { output, attributes: found.attributes });
            }
            Err(fault) => {
                assert_eq!((fault.address, fault.access), (input, access));
                let stands = last.map(|last| (Some(last.at), Some(last.address)));
                let kind = last.map(|last| last.entry);
                match fault.cause {
                    Cause::Address => {
                        assert_eq!(query, Err(Error::Range));
                        assert!(trace.is_empty() && self.format.offset(input).is_none());
                    }
                    Cause::TableAccess => {
                        assert!(matches!(query, Err(Error::Memory(_))), "{query:?}");
                        assert!(matches!(kind, None | Some(Entry::Table { .. })), "{trace:?}");
                        let entry = fault.entry.expect("an entry that is not there");
                        assert!(self.memory.word(entry).is_err(), "{entry} is there");
                    }
                    Cause::NotPresent => {
                        assert_eq!(query, Ok(None));
                        assert_eq!(
                            (kind, stands),
                            (Some(Entry::Absent), Some((fault.at, fault.entry)))
                        );
                    }
                    Cause::Malformed => {
                        assert!(matches!(query, Err(Error::Malformed { .. })), "{query:?}");
                        assert_eq!(
                            (kind, stands),
                            (Some(Entry::Malformed), Some((fault.at, fault.entry)))
                        );
                    }
                    Cause::Denied => {
                        assert!(matches!(query, Ok(Some(_))), "{query:?}");
                        assert_eq!(stands, Some((fault.at, fault.entry)));
                    }
                    Cause::Contended => panic!("nobody contends: {fault}"),
                }
            }
        }
        translated
    }

    fn batch(&self, inputs: &[Input<F>], one_by_one: &[Translated<F>], access: Access) {
        let inputs: Vec<_> = inputs.iter().copied().cycle().take(BATCH).collect();
        let mut outputs = vec![None; inputs.len()];
        let memory = Counted::of(self.memory);
        let count = Walker::new(self.format, &memory, self.root).translate_batch(
            &inputs,
            access,
            &mut outputs,
        );
        assert!(
            memory.loads() <= inputs.len() * 3 * MAX_LEVELS,
            "more loads than three for each level"
        );
        let expected = one_by_one.iter().map(|one| one.as_ref().ok().map(|found| found.output));
        let expected: Vec<_> = expected.cycle().take(BATCH).collect();
        assert_eq!(outputs, expected, "{access} in a batch of {inputs:?}");
        assert_eq!(count, expected.iter().flatten().count());
    }

    fn cached(&self, inputs: &[Input<F>], one_by_one: &[Translated<F>], access: Access) {
        let generation = Generation::new();
        let cache = TranslationCache::<F, 8>::new(&generation);
        let walker = self.walker();
        for _ in 0..2 {
            for (&input, &judged) in inputs.iter().zip(one_by_one) {
                assert_eq!(cache.translate(&walker, input, access), judged, "{input}");
            }
        }
    }

    /// An access is judged as a translation is, and marks the entries that it used as hardware
    /// does, and nothing else. The memory is looked over once for all `inputs`.
    fn recorded(&self, inputs: &[Input<F>], access: Access) {
        let walker = self.walker();
        let memory = self
            .memory
            .table(self.memory.start(), self.memory.bytes() as usize / 8)
            .expect("all of it");
        let held = || memory.iter().map(|word| word.load(Ordering::Relaxed));
        let expected: Vec<_> = held().map(AtomicU64::new).collect();
        let copy = DirectMap::new(&expected, self.memory.start());
        for &input in inputs {
            // A table that is its own table below: the record made in one entry changes another of
            // the same walk, which judging does not see.
            let trace = walker.trace(input);
            let mut entries: Vec<_> = trace.iter().map(|step| step.address.get()).collect();
            entries.sort_unstable();
            if entries.windows(2).any(|pair| pair[0] == pair[1]) {
                continue;
            }
            let judged = walker.translate(input, access);
            match (judged, walker.access(input, access)) {
                (Ok(judged), Ok(made)) => {
                    assert_eq!((made.output, made.shift), (judged.output, judged.shift), "{input}");
                    for step in walker.trace(input) {
                        let bits = self.format.bits(step.at);
                        let marked = |word| match step.entry {
                            Entry::Table { .. } => bits.table.made(word),
                            Entry::Leaf { .. } if access.kind == AccessKind::Write => {
                                bits.dirty.made(bits.accessed.made(word))
                            }
                            Entry::Leaf { .. } => bits.accessed.made(word),
                            Entry::Absent | Entry::Malformed => {
                                unreachable!("{step:?} on the way to a leaf")
                            }
                        };
                        let word = F::Word::word_in(&copy, step.address).expect("it was read");
                        let swap = |raw| F::Word::swap(F::BYTE_ORDER, raw);
                        let made = swap(marked(swap(word.load_raw(Ordering::Relaxed))));
                        word.store_raw(made, Ordering::Relaxed);
                    }
                }
                (Err(judged), Err(made)) => assert_eq!(made, judged),
                (judged, made) => panic!("{input}: judged {judged:?}, made {made:?}"),
            }
        }
        let expected = expected.iter().map(|word| word.load(Ordering::Relaxed));
        let differ = held().zip(expected).position(|(now, expected)| now != expected);
        assert_eq!(differ, None, "{access} at {inputs:?} leaves another word there");
    }

    /// What iteration should list from `offset` to `end`, asking page by page; and the offset at
    /// which it should fail.
    fn page_by_page(&self, mut offset: u64, end: u64) -> (Vec<LeafOf<F>>, Option<u64>) {
        let walker = self.walker();
        let finest = self.format.geometry().finest_shift();
        let mut leaves = Vec::new();
        while offset < end {
            let at = self.format.address(offset);
            let shift = match walker.query(at) {
                Ok(Some(found)) => {
                    let within = offset & low_bits(found.shift);
                    leaves.push(LeafOf::<F> {
                        input: self.format.address(offset - within),
                        output: Output::<F>::new(found.output.get().wrapping_sub(within)),
                        bytes: 1 << found.shift,
                        shift: found.shift,
                        attributes: found.attributes,
                    });
                    found.shift
                }
                Ok(None) => finest,
                Err(_) => return (leaves, Some(offset)),
            };
            offset = (offset | low_bits(shift)) + 1;
        }
        (leaves, None)
    }

    fn iteration(&self, first: Input<F>, bytes: u64) {
        let geometry = self.format.geometry();
        let Some(offset) = self.format.offset(first) else { return };
        let bytes = bytes % (MOST_PAGES << geometry.finest_shift());
        let memory = Counted::of(self.memory);
        let walker = Walker::new(self.format, &memory, self.root);

        let mut leaves = Vec::new();
        let ended = walker.for_each(first, bytes, |leaf| {
            leaves.push(leaf);
            ControlFlow::<()>::Continue(())
        });
        let pages = (bytes >> geometry.finest_shift()) as usize + 2;
        // The groups to which the first and the last page belong are read whole.
        let around = 2 << geometry.largest_group(Level(0));
        assert!(
            memory.loads() <= pages * (usize::from(geometry.levels()) + 1) + around,
            "{first}, {bytes:#x}: too many loads"
        );

        if let Err(RangeError { error: Error::Range, .. }) = ended {
            let last = bytes
                .checked_sub(1)
                .map(|last| first.checked_add(last).and_then(|it| self.format.offset(it)));
            let contiguous =
                last.flatten().is_some_and(|last| last.wrapping_sub(offset) == bytes - 1);
            assert!(!contiguous, "{first}, {bytes:#x} bytes belong to the space");
            assert!(leaves.is_empty());
            return;
        }
        let (expected, fails) = self.page_by_page(offset, offset + bytes);
        match (ended, fails) {
            (Ok(flow), None) => assert_eq!(flow, ControlFlow::Continue(())),
            (Err(error), Some(fails)) => {
                let at = self.format.offset(error.at).expect("within").max(offset);
                assert!(matches!(error.error, Error::Malformed { .. } | Error::Memory(_)));
                assert_eq!(at, fails, "{error}");
            }
            (ended, fails) => panic!("{ended:?}, and page by page {fails:x?}"),
        }
        assert_eq!(leaves, expected, "from {first}, {bytes:#x} bytes");
        self.other_forms(first, bytes, &leaves, ended);
    }

    /// The other forms of iteration, against the first one.
    fn other_forms(
        &self,
        first: Input<F>,
        bytes: u64,
        leaves: &[LeafOf<F>],
        ended: Result<ControlFlow<()>, RangeError<Input<F>>>,
    ) {
        let walker = self.walker();
        let mut items = walker.iter(first, bytes).expect("a range");
        for leaf in leaves {
            assert_eq!(items.next(), Some(Ok(*leaf)));
        }
        assert_eq!(items.next(), ended.err().map(Err));
        assert_eq!(items.next(), None);

        let mut of_runs = Vec::new();
        let runs = walker.for_each_run(first, bytes, |run| {
            for leaf in run.leaves() {
                match leaf {
                    Ok(leaf) => of_runs.push(leaf),
                    Err(error) => return ControlFlow::Break(error),
                }
            }
            ControlFlow::Continue(())
        });
        let runs = runs.and_then(|flow| match flow {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(ControlFlow::Continue(())),
        });
        assert_eq!((&of_runs[..], runs), (leaves, ended));

        let mut apart = Vec::new();
        let coalesced = walker.for_each_coalesced(first, bytes, |mapping| {
            for start in (0..mapping.bytes).step_by(1 << mapping.shift) {
                let moved = |at: u64| at.wrapping_add(start);
                apart.push(LeafOf::<F> {
                    input: Input::<F>::new(moved(mapping.input.get())),
                    output: Output::<F>::new(moved(mapping.output.get())),
                    bytes: 1 << mapping.shift,
                    ..mapping
                });
            }
            ControlFlow::<()>::Continue(())
        });
        assert_eq!((&apart[..], coalesced), (leaves, ended));

        let nothing = walker.diff(&walker, first, bytes, ControlFlow::Break);
        assert_eq!(
            nothing.map(|flow| flow.is_continue()).map_err(|error| error.at),
            ended.map(|_| true).map_err(|error| error.at)
        );
    }

    /// Ranges that leave the space are refused before anything is read.
    fn no_range(&self, inputs: &[Input<F>], bytes: u64) {
        let memory = Counted::of(self.memory);
        let walker = Walker::new(self.format, &memory, self.root);
        for &input in inputs {
            let beyond = bytes | 1 << 63;
            let refused = walker.for_each(input, beyond, |_| ControlFlow::Break(()));
            assert!(
                matches!(refused, Err(RangeError { error: Error::Range, .. })),
                "{input}, {beyond:#x}"
            );
            assert_eq!(memory.loads(), 0);
        }
    }
}
