//! What stands where in the guest's real memory when it begins.
//!
//! The kernel stands at 0, where it would move itself otherwise. RTAS and the device tree end at
//! 128 MiB: that is below what a hashed guest reaches in real mode with the smallest table that it
//! is given, and the RTAS entry point fits in 32 bits. The initrd stands between kernel and tree if
//! it fits there, else behind them.

/// The least memory of a guest.
pub const MIN_MEMORY: u64 = 128 << 20;

/// The unit of all places: the kernel's pages.
const PAGE: u64 = 0x1_0000;
/// Where RTAS stands: the last page of the first 128 MiB.
const RTAS: u64 = MIN_MEMORY - PAGE;
/// Where the tree stands, below it.
const TREE: u64 = RTAS - TREE_ROOM;
/// The room for the tree.
const TREE_ROOM: u64 = 0x10_0000;

/// Where things stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many bytes of memory there are, from 0 on.
    pub memory: u64,
    /// The initrd's first byte.
    pub initrd: u64,
    /// Its length.
    pub initrd_bytes: u64,
    /// The device tree's first byte.
    pub tree: u64,
    /// The room for the tree.
    pub tree_room: u64,
    /// RTAS's first byte and entry point.
    pub rtas: u64,
    /// How many bytes RTAS has.
    pub rtas_bytes: u64,
}

impl Layout {
    /// The layout for a kernel that takes the first `kernel` bytes (with its zeroed data), and an
    /// initrd; `None` if they do not fit.
    #[must_use]
    pub fn new(memory: u64, kernel: u64, initrd_bytes: u64) -> Option<Self> {
        // The kernel's first allocations follow it: some room is left.
        let behind_kernel = kernel.checked_add(4 << 20)?.checked_next_multiple_of(PAGE)?;
        let fits =
            |from: u64, end: u64| from.checked_add(initrd_bytes).is_some_and(|last| last <= end);
        let places = [(behind_kernel, TREE), (MIN_MEMORY, memory)];
        let (initrd, _) = places.into_iter().find(|&(from, end)| fits(from, end))?;
        if memory < MIN_MEMORY || behind_kernel > TREE {
            return None;
        }
        let tree = TREE;
        Some(Self {
            memory,
            initrd,
            initrd_bytes,
            tree,
            tree_room: TREE_ROOM,
            rtas: RTAS,
            rtas_bytes: PAGE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        const MIB: u64 = 1 << 20;
        for (memory, kernel, initrd, at) in [
            (256 * MIB, 41 * MIB, 4 * MIB, Some(45 * MIB)),
            (128 * MIB, 41 * MIB, 4 * MIB, Some(45 * MIB)),
            (256 * MIB, 41 * MIB, 100 * MIB, Some(128 * MIB)),
            (256 * MIB, 41 * MIB, 129 * MIB, None),
            (127 * MIB, 41 * MIB, 4 * MIB, None),
            (256 * MIB, 127 * MIB, 1, None),
            (256 * MIB, u64::MAX, 1, None),
            (u64::MAX, 41 * MIB, u64::MAX, None),
        ] {
            let layout = Layout::new(memory, kernel, initrd);
            assert_eq!(layout.map(|it| it.initrd), at, "{memory:#x} {kernel:#x} {initrd:#x}");
        }
    }
}
