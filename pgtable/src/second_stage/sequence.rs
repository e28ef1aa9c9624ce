//! Whether something was unmapped since: what makes it safe to look a host page up without the
//! lock.
//!
//! Linux's `mmu_invalidate_seq` and `mmu_invalidate_in_progress`. All of it happens under the
//! embedder's lock, so plain numbers do.

/// How much had been unmapped when a fault's handling began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(u64);

/// Counts what was unmapped, and how many unmappings are under way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sequence {
    count: u64,
    under_way: u32,
}

impl Sequence {
    pub(crate) fn ticket(self) -> Ticket {
        Ticket(self.count)
    }

    /// Whether nothing was unmapped since `ticket`, and nothing is being unmapped.
    pub(crate) fn holds(self, ticket: Ticket) -> bool {
        self.under_way == 0 && ticket.0 == self.count
    }

    /// Something was unmapped.
    pub(crate) fn advance(&mut self) {
        self.count = self.count.wrapping_add(1);
    }

    pub(crate) fn begin(&mut self) {
        self.under_way = self.under_way.saturating_add(1);
    }

    pub(crate) fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        self.advance();
    }
}
