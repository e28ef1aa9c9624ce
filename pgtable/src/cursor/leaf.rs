//! The table in which a cursor stands, and the books that it keeps of it.

use crate::descent::Node;

/// The last-level table in which a cursor stands: one without a word if it stands nowhere.
#[derive(Debug)]
pub(super) struct Leaf<'t, W> {
    pub(super) words: &'t [W],
    pub(super) node: Node,
    /// The offset that its first entry covers, and the address.
    pub(super) base: u64,
    pub(super) input: u64,
    /// Entries that were filled one after the other, and entries that were emptied so, and are not
    /// in the books yet.
    pub(super) filled: Span,
    pub(super) emptied: Span,
    /// Whether pages were mapped since the cursor came.
    pub(super) mapped: bool,
    /// Live entries added (or taken away) since the cursor came, those spans left out.
    pub(super) delta: i32,
    /// The first and the last entry whose old translation hardware may hold; first > last if there
    /// is none. The span left out.
    pub(super) stale: (usize, usize),
}

/// Entries from one index to before another. What goes on where it ends costs a comparison that a
/// processor guesses right, and a store: no page waits for the last one's books.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: usize,
    end: usize,
}

impl Span {
    /// One entry more, if the span goes on with it. False otherwise, and nothing changed.
    #[inline(always)]
    pub(super) fn add(&mut self, index: usize) -> bool {
        let goes_on = self.end == index;
        if goes_on {
            self.end = index + 1;
        }
        goes_on
    }

    /// A span of that entry; returns the one before.
    pub(super) fn begin(&mut self, index: usize) -> Self {
        core::mem::replace(self, Self { start: index, end: index + 1 })
    }
}

impl<W> Leaf<'_, W> {
    /// Nowhere.
    pub(super) fn nowhere() -> Self {
        let none = Span { start: 0, end: 0 };
        let nothing = (usize::MAX, 0);
        Self {
            words: &[],
            node: Node::default(),
            base: 0,
            input: 0,
            filled: none,
            emptied: none,
            mapped: false,
            delta: 0,
            stale: nothing,
        }
    }

    /// The entry of that index was filled, and does not go on where the last one was.
    #[cold]
    #[inline(never)]
    pub(super) fn fill_apart(&mut self, index: usize) {
        let before = self.filled.begin(index);
        self.book_filled(before);
    }

    /// The same of an entry that was emptied.
    #[cold]
    #[inline(never)]
    pub(super) fn empty_apart(&mut self, index: usize) {
        let before = self.emptied.begin(index);
        self.book_emptied(before);
    }

    #[cold]
    pub(super) fn book_filled(&mut self, span: Span) {
        self.mapped |= span.start < span.end;
        self.delta += (span.end - span.start) as i32;
    }

    #[cold]
    pub(super) fn book_emptied(&mut self, span: Span) {
        if span.start < span.end {
            self.delta -= (span.end - span.start) as i32;
            self.stale = (self.stale.0.min(span.start), self.stale.1.max(span.end - 1));
        }
    }
}
