//! What a processor needs in memory to take an exception: descriptor tables, a task state segment,
//! a stack.
//!
//! It is the guest's first three pages of memory, and whoever builds the tables maps them: see
//! [`Corner`].

use pgtable::{Gpa, Gva};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::image::{Image, VECTORS};
use kvm_x86::{GDT, Selector};

/// Guest-physical address of the code.
pub const CODE: Gpa = Gpa::new(0);
/// Bytes of the three pages.
pub const BYTES: u64 = 0x3000;
/// Offset of the page of descriptors.
pub const DESCRIPTORS: u64 = 0x1000;
/// Offset of the stack's page.
pub const STACK: u64 = 0x2000;

const PAGE: u64 = 0x1000;
const IDT: u64 = DESCRIPTORS + 0x400;
const TASK: u64 = DESCRIPTORS + 0x800;
/// Bytes of an entry of the interrupt descriptor table.
const GATE: u64 = 16;
/// Bytes of a 64-bit task state segment.
const TASK_BYTES: usize = 104;
/// Bytes of a permission map for all ports below 0x400, all allowed: 0s.
const PORTS_BYTES: usize = 0x80;

/// Where the tables map the guest's own pages.
///
/// The three pages from guest-physical 0 on, in a row from `supervisor` on: code (execute),
/// descriptors (read), stack (write). The first of them, the code, at `user` too, for user mode.
/// The entries on the way must not be ones that a probe is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Corner {
    /// For supervisor mode, all three pages.
    pub supervisor: Gva,
    /// For user mode, the page of code.
    pub user: Gva,
}

impl Corner {
    const fn at(self, offset: u64) -> u64 {
        self.supervisor.get().wrapping_add(offset)
    }

    /// The global descriptor table, and the limit of its register.
    pub(super) const fn gdt(self) -> (u64, u16) {
        (self.at(DESCRIPTORS), (size_of_val(&GDT) - 1) as u16)
    }

    /// The interrupt descriptor table, and the limit of its register.
    pub(super) const fn idt(self) -> (u64, u16) {
        (self.at(IDT), (VECTORS * GATE - 1) as u16)
    }

    /// The task state segment, and its limit.
    pub(super) const fn task(self) -> (u64, u16) {
        (self.at(TASK), (TASK_BYTES + PORTS_BYTES) as u16)
    }

    /// One past the stack's last byte.
    pub(super) const fn stack_end(self) -> u64 {
        self.at(STACK + PAGE)
    }

    /// The guest-physical address of a place on the stack.
    pub(super) fn on_stack(self, rsp: u64) -> Option<Gpa> {
        let offset = rsp.wrapping_sub(self.supervisor.get());
        (STACK..STACK + PAGE).contains(&offset).then(|| Gpa::new(CODE.get() + offset))
    }

    /// Writes the three pages.
    pub(super) fn write(
        self,
        image: &Image,
        memory: &GuestMemoryMmap,
    ) -> Result<(), GuestMemoryError> {
        let to = |offset: u64| GuestAddress(CODE.get() + offset);
        memory.write_slice(image.bytes, to(0))?;
        for (index, descriptor) in (0..).zip(GDT) {
            memory.write_obj(descriptor, to(DESCRIPTORS + 8 * index))?;
        }
        for vector in 0..VECTORS {
            memory.write_obj(gate(self.at(image.vector(vector))), to(IDT + GATE * vector))?;
        }
        let mut task = [0; TASK_BYTES + PORTS_BYTES + 1];
        // RSP0; the offset of the permission map, and the byte of 1s that must follow it (SDM §8.7,
        // vol. 1 §19.5.2).
        task[4..12].copy_from_slice(&self.stack_end().to_le_bytes());
        task[102..104].copy_from_slice(&(TASK_BYTES as u16).to_le_bytes());
        task[TASK_BYTES + PORTS_BYTES] = 0xff;
        memory.write_slice(&task, to(TASK))
    }
}

/// An interrupt gate (SDM §6.14.1).
fn gate(handler: u64) -> u128 {
    let attributes = 0x8e00_u128 << 32;
    let selector = (Selector::KernelCode as u128) << 16;
    let [low, middle, high] =
        [handler & 0xffff, handler >> 16 & 0xffff, handler >> 32].map(u128::from);
    low | selector | attributes | middle << 48 | high << 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_holds_the_address_in_three_pieces() {
        assert_eq!(gate(0xffff_8123_4567_89ab), 0xffff_8123_4567_8e00_0008_89ab);
    }
}
