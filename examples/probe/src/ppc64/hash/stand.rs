//! The test stand: the VM that runs, the model of its table, and a step carried out by both.

use std::error::Error;
use std::io::ErrorKind;
use std::time::Duration;

use kvm_ppc::{Kvm, back_with_base_pages};
use pgtable::{AccessKind, Gpa, Gva};
use pgtable_ppc64::hash::{
    Authority, Hcall, HptOrder, PageSize, ReturnCode, Slb, SlbEsid, SlbVsid,
};
use pgtable_ppc64::kvm::PpcMmu;
use pgtable_ppc64::radix::{Amr, Iamr};
use probe_guest::Probe;
use probe_guest::ppc64::{Outcome, ProbeGuest, StubsAt};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::compare::{differences, masked};
use super::htab::{self, Mirror};
use super::layout::{ORDER, REGIONS, STUBS, is_data, slb};
use super::model::{Model, PageChange};
use super::slots::Slots;
use super::step::{Action, Call, Line, SlbInstruction, Step, Touch};
use crate::ppc64::end::{End, Hangs};
use crate::ppc64::otherwise::Otherwise;
use crate::report::Ended;

/// How long an access may take: ten thousand times as long as it does, as an emulated host may have
/// a hundredth of a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a VM is made until it is given up.
const TRIES: usize = 100;
/// A 4 KiB page.
const PAGE: usize = 1 << 12;
/// `H_FUNCTION`, as registers hold it.
const H_FUNCTION: u64 = ReturnCode::Function.code() as u64;

/// How a step ended, and what of it was not as predicted.
pub struct Tried {
    /// How it ended.
    pub ended: Ended,
    /// The differences, in words.
    pub differences: Vec<String>,
}

/// The test stand.
pub struct Stand {
    pub(super) guest: ProbeGuest,
    memory: GuestMemoryMmap,
    pub(super) model: Model,
    pub(super) mirror: Mirror,
    /// The VM to which the guest migrates, and what changed since that began.
    next: Option<ProbeGuest>,
    changes: Option<Vec<u8>>,
    /// What the guest's registers were set to last.
    registers: Option<(Slb, Authority)>,
    asked: u64,
    hangs: Hangs,
    slots: Slots,
    otherwise: Otherwise,
}

/// The guest's memory.
pub(super) fn memory() -> Result<GuestMemoryMmap, Box<dyn Error>> {
    let memory =
        GuestMemoryMmap::from_ranges(&REGIONS.map(|(start, bytes)| (GuestAddress(start), bytes)))?;
    // A host with a hashed page table has huge pages of 16 MiB; where one backs a guest's page of
    // that size, KVM takes the page.
    back_with_base_pages(&memory)?;
    // KVM makes a page available to the guest when somebody has used it; then all calls find it so.
    for (start, bytes) in REGIONS {
        for page in (start..start + bytes as u64).step_by(PAGE) {
            memory.write_obj(0_u64, GuestAddress(page))?;
        }
    }
    Ok(memory)
}

/// A VM with a table of this order, and nothing in it.
pub(super) fn guest(
    memory: &GuestMemoryMmap,
    order: HptOrder,
) -> Result<ProbeGuest, Box<dyn Error>> {
    let kvm = Kvm::new()?;
    // The tick of a guest that is still there can interrupt the making of another
    // (`mm_take_all_locks`).
    let mut tries = 0..TRIES;
    let mut guest = loop {
        match ProbeGuest::new(&kvm, memory.clone()) {
            Err(error) if error.kind() == ErrorKind::Interrupted && tries.next().is_some() => {}
            made => break made?,
        }
    };
    let given = guest.vm().allocate_htab(order.get().into())?;
    if given != u32::from(order.get()) {
        return Err(format!(
            "a table of order {order:?} was wanted, KVM made one of order {given}"
        )
        .into());
    }
    for call in [Hcall::ClearMod, Hcall::ClearRef, Hcall::PageInit] {
        guest.enable_hcall(call.number())?;
    }
    guest.set_patience(PATIENCE);
    let at = Gva::new(STUBS.start + guest.stubs().get());
    guest.set_stubs(StubsAt { supervisor: at, user: at });
    Ok(guest)
}

/// Puts the guest's decrementer off: problem state cannot mask interrupts.
fn greet(guest: &mut ProbeGuest) -> Result<(), Box<dyn Error>> {
    guest.set_slb(&slb(|_, segment| Some(segment)))?;
    match guest.hello()? {
        Outcome::Completed { .. } => Ok(()),
        outcome => Err(format!("the guest's first words: {outcome}").into()),
    }
}

impl Stand {
    /// Sets the stand up: a fresh VM, into which our table is written.
    ///
    /// The host backs the guest's memory with pages of size `backing`.
    pub fn new(backing: PageSize, otherwise: Otherwise) -> Result<Self, Box<dyn Error>> {
        let order = HptOrder::new(ORDER).ok_or("the layout's order is none")?;
        Self::of(Model::new(order, backing)?, memory()?, otherwise)
    }

    /// The stand with this table.
    pub(super) fn of(
        model: Model,
        memory: GuestMemoryMmap,
        otherwise: Otherwise,
    ) -> Result<Self, Box<dyn Error>> {
        let order = model.table().order();
        let mut guest = guest(&memory, order)?;
        htab::write(guest.vm(), &htab::stream_of(model.table())?)?;
        greet(&mut guest)?;
        let mirror = Mirror::new(guest.vm(), order)?;
        Ok(Self {
            guest,
            memory,
            model,
            mirror,
            next: None,
            changes: None,
            registers: None,
            asked: 0,
            hangs: Hangs::default(),
            slots: Slots::default(),
            otherwise,
        })
    }

    /// How many free places KVM has passed over, in how many calls.
    pub fn passed_over(&self) -> (usize, usize) {
        (self.slots.passed_over, self.slots.entered)
    }

    /// The library's side.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Carries a step out. `None`: it has no one answer, and was not.
    pub fn run(&mut self, step: &mut Step) -> Result<Option<Tried>, Box<dyn Error>> {
        match &mut step.action {
            Action::Call(call) => self.call(call).map(Some),
            Action::Touch(touch) => self.touch(touch),
            Action::Slb(slb, instructions) => self.slb(**slb, instructions).map(Some),
        }
    }

    /// Reads the VM's table and compares all of it with ours.
    pub fn compare_tables(&mut self) -> Result<Vec<String>, Box<dyn Error>> {
        let stream = self.read()?;
        if let Some(changes) = &mut self.changes {
            changes.extend(stream);
        }
        Ok(differences(&super::model::contents(self.model.table()), &self.mirror.contents()))
    }

    /// Reads the VM's table.
    pub(super) fn read(&mut self) -> Result<Vec<u8>, Box<dyn Error>> {
        self.model.is_read();
        self.mirror.update()
    }

    /// A hypercall.
    pub(super) fn call(&mut self, call: &Call) -> Result<Tried, Box<dyn Error>> {
        // Every page that a call might change has a content of its own, and each call another.
        let number = Hcall::of_number(call.number);
        let watched = match number {
            Some(Hcall::PageInit) => vec![call.arguments[1], call.arguments[2]],
            Some(Hcall::Enter) => vec![call.arguments[3] & 0x0fff_ffff_ffff_f000],
            _ => vec![],
        };
        let watched: Vec<_> = watched
            .into_iter()
            .map(|page| page & !(PAGE as u64 - 1))
            .filter(|&page| is_data(page))
            .collect();
        for &page in &watched {
            self.asked += 1;
            let pattern: Vec<_> = (0..PAGE as u64 / 8)
                .flat_map(|at| (self.asked << 32 | page ^ at).to_le_bytes())
                .collect();
            self.memory.write_slice(&pattern, GuestAddress(page))?;
        }
        let (answer, changed) = self.model.call(call);
        let mut pages = Vec::new();
        for &page in &watched {
            let source = match changed {
                Some(PageChange::Zeroed(to)) if to.get() == page => None,
                Some(PageChange::Copied(to, from)) if to.get() == page => Some(from.get()),
                _ => Some(page),
            };
            pages.push((page, source.map_or_else(|| Ok(vec![0; PAGE]), |from| self.page(from))?));
        }
        let seen = match self.guest.hcall(call.number, call.arguments)? {
            Ok(seen) => seen,
            Err(outcome) => {
                return Ok(Tried {
                    ended: Ended::Refused,
                    differences: vec![format!("seen {outcome}")],
                });
            }
        };
        let mut expected = [answer.code.code() as u64; 9];
        expected[1..].copy_from_slice(&answer.values[..8]);
        let mut differences = Vec::new();
        if number == Some(Hcall::Enter) && (expected[0], seen[0]) == (0, 0) {
            self.slots.entered += 1;
            if expected[1] != seen[1] && self.slots.may_pass_over(call) {
                let other = self.model.entered_elsewhere(expected[1], seen[1])?;
                expected[1] = other.unwrap_or(expected[1]);
            }
        }
        let hide = |answer: [u64; 9]| masked(&self.model, number, call, answer);
        if hide(expected) != hide(seen) {
            differences.push(format!(
                "R3 to R11: expected{:?}\n                       seen    {:?}",
                Line(&hide(expected)),
                Line(&hide(seen))
            ));
        }
        for (page, expected) in pages {
            if self.page(page)? != expected {
                differences.push(format!("the page at {page:#x} is not as it should be"));
            }
        }
        if seen[0] == H_FUNCTION {
            differences.push("the kernel did not carry it out".to_owned());
        }
        Ok(Tried { ended: if seen[0] == 0 { Ended::Done } else { Ended::Refused }, differences })
    }

    fn page(&self, page: u64) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut content = vec![0; PAGE];
        self.memory.read_slice(&mut content, GuestAddress(page))?;
        Ok(content)
    }

    /// An access that would write to the guest's code, or fetch from where there is no memory,
    /// which KVM-HV tries again without end, becomes a load.
    pub(super) fn touch(&mut self, touch: &mut Touch) -> Result<Option<Tried>, Box<dyn Error>> {
        touch.authority = self.otherwise.authority(touch.authority);
        // What the model records in a first attempt, the load records too.
        let mut predicted = self.model.touch(touch, self.guest.start(touch.access))?;
        let harmful = match (touch.access.kind, &predicted) {
            (AccessKind::Write | AccessKind::Fetch, Some(End::Done(address))) => {
                !is_data(address.get())
            }
            (AccessKind::Fetch, Some(End::NoMemory(_))) => true,
            _ => false,
        };
        if harmful {
            touch.access.kind = AccessKind::Read;
            predicted = self.model.touch(touch, self.guest.start(touch.access))?;
        }
        let Some(predicted) = predicted else { return Ok(None) };
        let seen = self.ask(touch, &predicted)?;
        Ok(Some(Tried { ended: Ended::from(&seen), differences: predicted.differences(&seen) }))
    }

    fn ask(&mut self, touch: &Touch, predicted: &End) -> Result<End, Box<dyn Error>> {
        if self.registers.replace((touch.slb, touch.authority))
            != Some((touch.slb, touch.authority))
        {
            self.guest.set_slb(&touch.slb)?;
            let Authority { amr, iamr } = touch.authority;
            self.guest.set_authority(Amr::from_bits(amr), Iamr::from_bits(iamr))?;
        }
        self.asked += 1;
        // No two accesses have the same value, and none stands anywhere in memory.
        let value = self.asked.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let addend = (self.asked & 0x3fff) as i16 + 1;
        let there = match *predicted {
            End::Done(address) => Some((GuestAddress(address.get()), is_data(address.get()))),
            _ => None,
        };
        let mut wanted = value;
        match (touch.access.kind, there) {
            (AccessKind::Read, Some((at, true))) => self.memory.write_obj(value.to_le(), at)?,
            (AccessKind::Read, Some((at, false))) => {
                wanted = u64::from_le(self.memory.read_obj(at)?);
            }
            (AccessKind::Write, Some((at, true))) => self.memory.write_obj(!value, at)?,
            (AccessKind::Fetch, Some((at, true))) => {
                self.memory.write_slice(&self.guest.target(addend), at)?;
                wanted = value.wrapping_add(addend as u64);
            }
            (_, Some((_, false))) => return Err("an access would destroy the guest".into()),
            (_, None) => {}
        }
        let given = if touch.access.kind == AccessKind::Read { 0 } else { value };
        let outcome = self.guest.probe(&Probe {
            address: touch.address,
            access: touch.access,
            value: given,
        })?;
        let stored = match there {
            Some((at, _)) if touch.access.kind == AccessKind::Write => {
                u64::from_le(self.memory.read_obj(at)?)
            }
            _ => wanted,
        };
        if let Some((at, true)) = there {
            self.memory.write_obj(0_u64, at)?;
        }
        let at = there.map(|(at, _)| Gpa::new(at.0));
        self.hangs.end_of(&outcome, at, wanted, stored)
    }

    fn slb(
        &mut self,
        mut slb: Slb,
        instructions: &[SlbInstruction],
    ) -> Result<Tried, Box<dyn Error>> {
        self.registers = None;
        self.guest.set_slb(&slb)?;
        let mut differences = Vec::new();
        let mut ended = Ended::Done;
        for &instruction in instructions {
            let (expected, outcome) = match instruction {
                SlbInstruction::Slbmte(rb, rs) => {
                    (slb.slbmte(rb, rs).is_ok(), self.guest.slbmte((rb, rs))?)
                }
                SlbInstruction::Slbie(address) => {
                    slb.slbie(address);
                    (true, self.guest.slbie(address)?)
                }
                SlbInstruction::Slbia => {
                    slb.slbia(0)?;
                    (true, self.guest.slbia()?)
                }
            };
            let taken = matches!(outcome, Outcome::Completed { .. });
            if !taken {
                ended = Ended::Refused;
            }
            if taken != expected {
                differences.push(format!(
                    "{instruction:x?}: expected {}, seen {outcome}",
                    if expected { "done" } else { "refused" }
                ));
            }
        }
        let expected: Vec<_> = (0_u16..)
            .zip(0..pgtable_ppc64::hash::SLB_ENTRIES)
            .map(|(index, place)| (index, slb.entry(place)))
            .filter(|(_, (esid, _))| esid.v())
            .map(|(index, (esid, vsid))| (esid.with_index(index), vsid))
            .collect();
        let seen = self.guest.slb()?;
        if expected != seen {
            let words = |slb: &[(SlbEsid, SlbVsid)]| {
                slb.iter()
                    .map(|(rb, rs)| {
                        format!("\n    {:#018x} {:#018x}", rb.into_bits(), rs.into_bits())
                    })
                    .collect::<String>()
            };
            differences.push(format!("SLB: expected{}\n  seen{}", words(&expected), words(&seen)));
        }
        Ok(Tried { ended, differences })
    }

    /// Goes over to a fresh VM, with our table written into it.
    pub fn move_to_ours(&mut self) -> Result<(), Box<dyn Error>> {
        let next = guest(&self.memory, self.model.table().order())?;
        htab::write(next.vm(), &htab::stream_of(self.model.table())?)?;
        self.switch(next)
    }

    /// Begins to migrate: a fresh VM, with everything that this one's table holds now.
    ///
    /// Whoever reads a table clears KVM's marks of what changed, for all file descriptors of the
    /// VM: so from now on there is only the new one.
    pub fn begin_to_migrate(&mut self) -> Result<(), Box<dyn Error>> {
        let next = guest(&self.memory, self.model.table().order())?;
        self.mirror = Mirror::new(self.guest.vm(), self.model.table().order())?;
        htab::write(next.vm(), &self.read()?)?;
        self.next = Some(next);
        self.changes = Some(Vec::new());
        Ok(())
    }

    /// Ends it: what changed meanwhile follows, and the guest goes on there. Returns how many bytes
    /// that were.
    pub fn migrate(&mut self) -> Result<usize, Box<dyn Error>> {
        let next = self.next.take().ok_or("there is no VM to migrate to")?;
        let mut changes = self.changes.take().unwrap_or_default();
        changes.extend(self.read()?);
        htab::write(next.vm(), &changes)?;
        self.switch(next)?;
        Ok(changes.len())
    }

    fn switch(&mut self, mut next: ProbeGuest) -> Result<(), Box<dyn Error>> {
        greet(&mut next)?;
        self.mirror = Mirror::new(next.vm(), self.model.table().order())?;
        self.guest = next;
        self.model.is_fresh();
        self.registers = None;
        Ok(())
    }
}
