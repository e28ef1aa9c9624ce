//! The tables on the way to an address, kept: the next descent begins at the lowest that covers it.

use crate::address::Address;
use crate::descent::{Link, Lost, Node, Reading, Stop, descend};
use crate::format::{Format, Output};
use crate::geometry::MAX_LEVELS;
use crate::lock::{Exclusive, Locks};
use crate::memory::MemoryError;

/// The tables on the way to the last offset that was looked for: where the next descent may begin.
/// Where writers share a tree, the tables on the trail are those that its writer has locked (see
/// the module `lock`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trail<L = Exclusive> {
    nodes: [Node; MAX_LEVELS],
    /// The level of the last table on the trail.
    lowest: u8,
    /// The level of the first.
    top: u8,
    offset: u64,
    pub(crate) locks: L,
}

impl Trail {
    pub(crate) fn new(root: Node) -> Self {
        Self::from(root, 0, Exclusive)
    }
}

impl<L: Locks> Trail<L> {
    /// A trail that begins at `top`, which covers `offset`, and which the writer has.
    pub(crate) fn from(top: Node, offset: u64, locks: L) -> Self {
        let mut nodes = [Node::default(); MAX_LEVELS];
        nodes[top.level as usize % MAX_LEVELS] = top;
        Self { nodes, lowest: top.level, top: top.level, offset, locks }
    }

    /// The level of the table at which the trail begins.
    #[inline(always)]
    pub(crate) fn top(&self) -> u8 {
        self.top
    }

    /// The table of `level` on the trail, if the trail goes that far down.
    #[inline(always)]
    pub(crate) fn node(&self, level: u8) -> Node {
        self.nodes[level as usize % MAX_LEVELS]
    }

    /// The lowest table on the trail.
    #[inline(always)]
    pub(crate) fn bottom(&self) -> Node {
        self.node(self.lowest)
    }

    /// Forgets everything below `level`.
    #[inline(always)]
    pub(crate) fn cut(&mut self, level: u8) {
        if L::HOLDS {
            for level in self.lowest..level {
                self.locks.leave(self.node(level));
            }
        }
        self.lowest = self.lowest.max(level);
    }

    /// The table of `level` on the trail is being taken out of the tree.
    #[inline(always)]
    pub(crate) fn left(&mut self, level: u8) {
        self.cut(level);
        self.lowest = self.lowest.max(level + 1);
    }

    /// `node` is the table that covers the trail's offset on its level.
    #[inline(always)]
    pub(crate) fn extend(&mut self, node: Node) {
        // Levels that an entry leads past have no table here.
        for level in node.level + 1..self.lowest {
            self.nodes[level as usize % MAX_LEVELS] = Node::default();
        }
        self.nodes[node.level as usize % MAX_LEVELS] = node;
        self.lowest = node.level;
    }

    /// The tables of `nodes`, which were born with this trail's owner, were linked to the tree,
    /// below where the trail ended.
    #[inline(always)]
    pub(crate) fn grown(&mut self, nodes: &[Node]) {
        for &node in nodes {
            self.extend(node);
        }
    }

    /// Gets the table `node` for this writer, to which `link` leads from the trail's last table.
    /// False if it cannot be had.
    #[inline(always)]
    pub(crate) fn visit(&mut self, node: Node, link: Link) -> bool {
        !L::ASKS || self.locks.enter(node, above(&self.nodes, self.lowest, self.top), link)
    }

    /// The tables on the trail from the last one up, and the locks: for a writer that visits many
    /// tables below the last one.
    #[inline(always)]
    pub(crate) fn parts(&mut self) -> (&[Node], &mut L) {
        (above(&self.nodes, self.lowest, self.top), &mut self.locks)
    }

    /// The lowest table on the trail, if it covers `offset`.
    #[inline(always)]
    pub(crate) fn here(&self, offset: u64) -> Option<Node> {
        let node = self.bottom();
        ((offset ^ self.offset) >> node.span() == 0).then_some(node)
    }

    /// The trail begins one table further down, if that table covers all from `start` to `last`,
    /// between which the trail's offset is; returns the table that it began with.
    pub(crate) fn narrow(&mut self, start: u64, last: u64) -> Option<Node> {
        let first = self.node(self.top);
        let covered =
            self.top > self.lowest && (start ^ last) >> self.node(self.top - 1).span() == 0;
        self.top -= u8::from(covered);
        covered.then_some(first)
    }

    /// Lets go of every table.
    pub(crate) fn release(&mut self) {
        for level in self.lowest..=self.top {
            self.locks.leave(self.node(level));
        }
        self.lowest = self.top + 1;
    }

    /// Descends to `offset`, beginning at the lowest table on the trail that covers it.
    #[inline(always)]
    pub(crate) fn seek<F: Format, R: Reading<F>>(
        &mut self,
        format: &F,
        memory: R,
        offset: u64,
        floor: u8,
    ) -> Result<Stop<F, R::Slot>, Lost> {
        // No writer gets above the tables that he has.
        let floor = if L::HOLDS { floor.min(self.top) } else { floor };
        let moved = offset ^ self.offset;
        let mut level = self.lowest.max(floor);
        while level < self.top && moved >> self.node(level).span() != 0 {
            level += 1;
        }
        self.cut(level);
        self.lowest = level;
        self.offset = offset;
        let from = self.node(level);
        let mut refused = None;
        let stop = descend(format, memory, from, offset, floor, |node, link| {
            if !L::ASKS || (refused.is_none() && self.visit(node, link)) {
                self.extend(node);
            } else {
                refused = refused.or(Some(node));
            }
        });
        match refused {
            Some(node) if L::ASKS => Err(Lost {
                node,
                error: MemoryError::outside(<Output<F> as Address>::new(node.table), 1),
            }),
            _ => stop,
        }
    }
}

/// The tables of a trail from its lowest up.
#[inline(always)]
fn above(nodes: &[Node; MAX_LEVELS], lowest: u8, top: u8) -> &[Node] {
    nodes.get(usize::from(lowest)..=usize::from(top)).unwrap_or_default()
}
