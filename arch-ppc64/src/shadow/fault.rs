//! A fault of L2's: through L1's tree, then through our second stage, into the shadow; or to
//! whoever has to do something first.

use pgtable::allocator::TableAllocator;
use pgtable::format::Format;
use pgtable::invalidate::Invalidate;
use pgtable::memory::{ReadMemory, TableMemory};
use pgtable::second_stage::MemorySlot;
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Cause, Gpa, Hpa, Stage2, low_bits};

use super::reverse_map::ReverseMap;
use super::{Error, L1Memory, Nested, Partition};
use crate::interrupt::{Interrupt, Status, Vector};
use crate::radix::{
    Att, Eaa, Granule, HypervisorFault, PageAttributes, PartitionScoped, PartitionTable, Pte,
    RcPolicy, Strictness,
};
use crate::second_stage::{Action, HDSISR_CANARY, Leaf, Reason, SecondStage, StorageFault};

/// What is to be done about a fault of L2's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Let L2 go on: it is mapped, or the access is worth another try.
    Retry,
    /// Give this interrupt to L1: it is L1's to handle.
    ToL1(HypervisorFault),
    /// Something to do with our own second stage, at an address of L1's: emulate an access, fault a
    /// page in (then let L2 go on, it will fault again), give *L2* a DSI, or give up.
    Host(Action),
}

/// An access, after L1's tree.
struct Through {
    /// Where it goes in L1's memory.
    gpa: Gpa,
    /// log2 of L1's page.
    shift: u8,
    attributes: PageAttributes,
}

impl<M: TableMemory<Hpa>, A: TableAllocator<Hpa>> Nested<M, A> {
    /// Handles `fault`, which L2 in L1's partition `l2` took while it ran on its shadow. `l1` is
    /// L1's memory, `host` our second stage of L1, `slot` finds the memory slot of an address of
    /// L1's, and `by` makes translations unreachable.
    ///
    /// R and C: where hardware does not set them, L1 hears that they are missing in its own leaf,
    /// as it would from hardware; where hardware does, they are set there. Either way they are set
    /// in our leaf before the shadow has them.
    ///
    /// # Errors
    /// [`Error`].
    pub fn fault<G, M0, A0, I>(
        &mut self,
        l2: u32,
        fault: &HypervisorFault,
        l1: &G,
        host: &mut SecondStage<M0, A0>,
        slot: impl FnOnce(Gpa) -> Option<MemorySlot>,
        by: &I,
    ) -> Result<Outcome, Error>
    where
        G: ReadMemory<Gpa>,
        M0: TableMemory<Hpa>,
        A0: TableAllocator<Hpa>,
        I: Invalidate<Stage2, Identity = u32>,
    {
        let Self { table, partitions, links } = self;
        let partition = partitions.get_mut(&l2).ok_or(Error::NoShadow { l2 })?;
        let asked = StorageFault::of(fault);
        if asked.status == HDSISR_CANARY {
            return Ok(Outcome::Retry);
        }
        if asked.status.bad_configuration() {
            // Hardware walked the shadow, and that is ours.
            return Ok(Outcome::Host(Action::Bad(Reason::UnsupportedTables)));
        }
        let through = match partition.through_l1(*table, l2, &asked, fault.interrupt.vector, l1) {
            Ok(Some(through)) => through,
            Ok(None) => return Ok(Outcome::Retry),
            Err(to_l1) => {
                // What L1's tree no longer says, the shadow must not say either.
                Self::drop_entries(partition, links, l2, (asked.gpa, 1), by)?;
                return Ok(Outcome::ToL1(to_l1));
            }
        };
        if asked.status.bad_access() {
            return Ok(Outcome::Host(Action::ReflectDsi { dar: asked.ea, dsisr: asked.status }));
        }
        let Through { gpa, .. } = through;
        match asked.action_at(gpa, slot) {
            Action::SetRc { alone, .. } => {
                if !partition.set_rc(links, l2, &asked, gpa, (host, by))? {
                    Self::drop_entries(partition, links, l2, (asked.gpa, 1), by)?;
                    return Ok(Outcome::Retry);
                }
                if alone {
                    return Ok(Outcome::Retry);
                }
            }
            Action::Instantiate { .. } => {}
            other => return Ok(Outcome::Host(other)),
        }
        let Some(leaf) = host_leaf(host, gpa, asked.kind, by)? else {
            return Ok(Outcome::Host(Action::Instantiate { gpa, kind: asked.kind }));
        };
        partition.shadow_it(links, l2, &asked, &through, &leaf, by)?;
        Ok(Outcome::Retry)
    }
}

impl<M: TableMemory<Hpa>, A: TableAllocator<Hpa>> Partition<M, A> {
    /// What L1's tree says of the access; else what L1 is to hear. `None`: L1 keeps changing the
    /// entries under the walk.
    fn through_l1<G: ReadMemory<Gpa>>(
        &mut self,
        table: Option<PartitionTable>,
        l2: u32,
        asked: &StorageFault,
        vector: Vector,
        l1: &G,
    ) -> Result<Option<Through>, HypervisorFault> {
        let rc = self.shadow.format().rc();
        let format =
            PartitionScoped::new(Granule::K64).with_strictness(Strictness::Kvm).with_rc(rc);
        let access = Access { kind: asked.kind, ..Access::READ };
        let to_l1 = |status: Status, asdr: u64| {
            // What was a store or a table stays one; in HSRR1 a store has its own bit.
            let fetch = vector == Vector::HypervisorInstructionStorage;
            let store = asked.kind == AccessKind::Write;
            let status = status.with_store(store && !fetch).with_update_failed(store && fetch);
            let status =
                status.with_table_access(status.table_access() || asked.status.table_access());
            let interrupt = Interrupt { vector, status };
            HypervisorFault { interrupt, hdar: asked.ea, asdr: Gpa::new(asdr & !0xfff) }
        };
        let Some(root) = self.root(table, l2, l1) else {
            return Err(to_l1(
                format.fault(Cause::Malformed, access, None, 0).status,
                asked.gpa.get(),
            ));
        };
        let walker = Walker::new(format, L1Memory(l1), root);
        let found = match rc {
            RcPolicy::Fault => walker.translate(asked.gpa, access),
            RcPolicy::HardwareUpdate => walker.access(asked.gpa, access),
        };
        match found {
            Ok(pgtable::Translation { output, shift, attributes }) => {
                // As they are once the access has been recorded.
                let c = attributes.c() || asked.kind == AccessKind::Write;
                let attributes = attributes.with_r(true).with_c(c);
                Ok(Some(Through { gpa: Gpa::new(output.get()), shift, attributes }))
            }
            Err(fault) => match (fault.cause, fault.entry) {
                (Cause::Contended, _) => Ok(None),
                (Cause::TableAccess, Some(entry)) => {
                    Err(to_l1(Status::new().with_table_access(true), entry.get()))
                }
                _ => Err(to_l1(fault.arch.status, asked.gpa.get())),
            },
        }
    }

    /// Sets R, and C for a store, in our leaf and in the shadow; false if they are not both there,
    /// or the shadow still maps what L1 had there before.
    fn set_rc<M0, A0, I>(
        &mut self,
        links: &ReverseMap,
        l2: u32,
        asked: &StorageFault,
        gpa: Gpa,
        (host, by): (&mut SecondStage<M0, A0>, &I),
    ) -> Result<bool, Error>
    where
        M0: TableMemory<Hpa>,
        A0: TableAllocator<Hpa>,
        I: Invalidate<Stage2, Identity = u32>,
    {
        let target = self.shadow.state_at(asked.gpa)?.and_then(|state| {
            let start = links.target(l2, state.leaf.input, state.leaf.shift)?;
            Some(start.get() + (asked.gpa.get() & low_bits(state.leaf.shift)))
        });
        Ok(target == Some(gpa.get())
            && record(host, gpa, asked.kind, by)?
            && record(&mut self.shadow, asked.gpa, asked.kind, by)?)
    }

    /// Makes the shadow entry.
    fn shadow_it<I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        links: &mut ReverseMap,
        l2: u32,
        asked: &StorageFault,
        l1: &Through,
        ours: &Leaf,
        by: &I,
    ) -> Result<(), Error> {
        let most = l1.shift.min(ours.shift);
        let shift = self
            .shadow
            .format()
            .geometry()
            .largest_leaf(0, most)
            .ok_or(Error::TooSmall { shift: most })?;
        let start = |address: u64| address & !low_bits(shift);
        let store = asked.kind == AccessKind::Write;
        let attributes = combine(l1.attributes, ours.attributes, store, self.shadow.format().rc());
        let within = l1.gpa.get() - ours.input.get();
        let leaf = Leaf {
            input: Gpa::new(start(asked.gpa.get())),
            output: Hpa::new(start(ours.output.get() + within)),
            bytes: 1 << shift,
            shift,
            attributes,
        };
        let gpa = Gpa::new(start(l1.gpa.get()));
        self.change(by, |shadow, gather| {
            // An entry that L1 got to by another page of its own is not added to, even if it is the
            // same page of ours: what that one allowed is not what this one allows.
            if links.target(l2, leaf.input, shift).is_some_and(|target| target != gpa) {
                shadow.unmap(leaf.input, leaf.bytes, gather, |gone| {
                    links.remove(l2, gone.leaf.input, gone.leaf.shift);
                })?;
            }
            shadow.place(leaf, gather, |gone| {
                links.remove(l2, gone.leaf.input, gone.leaf.shift);
            })?;
            if let Err(error) = links.insert(l2, leaf.input, shift, gpa) {
                // What nobody can find again must not stay.
                shadow.unmap(leaf.input, leaf.bytes, gather, |_| ())?;
                return Err(error);
            }
            Ok(())
        })
    }
}

/// Our leaf for `gpa` if it allows the access, with R, and C for a store; else it has to be faulted
/// in.
fn host_leaf<M, A, I>(
    host: &mut SecondStage<M, A>,
    gpa: Gpa,
    kind: AccessKind,
    by: &I,
) -> Result<Option<Leaf>, Error>
where
    M: TableMemory<Hpa>,
    A: TableAllocator<Hpa>,
    I: Invalidate<Stage2, Identity = u32>,
{
    if !record(host, gpa, kind, by)? {
        return Ok(None);
    }
    Ok(host.state_at(gpa)?.map(|state| state.leaf))
}

/// Sets R, and C for a store, in the leaf of `stage` that maps `gpa`; false if there is none, or it
/// does not allow the access.
fn record<M, A, I>(
    stage: &mut SecondStage<M, A>,
    gpa: Gpa,
    kind: AccessKind,
    by: &I,
) -> Result<bool, Error>
where
    M: TableMemory<Hpa>,
    A: TableAllocator<Hpa>,
    I: Invalidate<Stage2, Identity = u32>,
{
    let mut gather = stage.gather(by);
    let recorded = stage.record(gpa, kind, &mut gather);
    stage.finish(&mut gather)?;
    Ok(recorded?)
}

/// What both allow. R and C only where both have them, and C for a store only; where hardware sets
/// C, no stores without it. Nothing is fetched from what L1 maps as non-idempotent, since the entry
/// has our memory type and not L1's.
fn combine(l1: PageAttributes, ours: PageAttributes, store: bool, rc: RcPolicy) -> PageAttributes {
    let reads = |eaa: Eaa| eaa.read() || eaa.write();
    let c = l1.c() && ours.c() && store;
    let write = l1.eaa().write() && ours.eaa().write() && (c || rc == RcPolicy::Fault);
    let eaa = Eaa::new()
        .with_read(reads(l1.eaa()) && reads(ours.eaa()))
        .with_write(write)
        .with_execute(l1.eaa().execute() && l1.att() != Att::NonIdempotent && ours.eaa().execute());
    PageAttributes::of(
        Pte::new().with_eaa(eaa).with_att(ours.att()).with_r(l1.r() && ours.r()).with_c(c),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_fetch_from_what_l1_maps_as_non_idempotent() {
        let all = Eaa::new().with_read(true).with_write(true).with_execute(true);
        let page = |att| PageAttributes::of(Pte::new().with_eaa(all).with_att(att));
        for (att, fetched) in [
            (Att::Normal, true),
            (Att::StrongAccessOrder, true),
            (Att::NonIdempotent, false),
            (Att::Tolerant, true),
        ] {
            let both = combine(page(att), page(Att::Normal), false, RcPolicy::Fault);
            assert_eq!(both.eaa().execute(), fetched, "{att:?}");
            assert_eq!(both.att(), Att::Normal);
        }
    }

    /// Every combination of rights and records: what the shadow has, both have; and a store that
    /// one of them has not recorded gets no entry that allows it, where hardware records by itself.
    #[test]
    fn no_more_than_both() {
        let attributes = |bits: u8| {
            let eaa = Eaa::new()
                .with_read(bits & 1 != 0)
                .with_write(bits & 2 != 0)
                .with_execute(bits & 4 != 0);
            PageAttributes::of(
                Pte::new().with_eaa(eaa).with_r(bits & 8 != 0).with_c(bits & 16 != 0),
            )
        };
        for (l1, ours) in
            (0..32).flat_map(|l1| (0..32).map(move |ours| (attributes(l1), attributes(ours))))
        {
            for (store, rc) in [
                (false, RcPolicy::Fault),
                (true, RcPolicy::Fault),
                (false, RcPolicy::HardwareUpdate),
                (true, RcPolicy::HardwareUpdate),
            ] {
                let both = combine(l1, ours, store, rc);
                let all = |has: fn(&PageAttributes) -> bool| has(&l1) && has(&ours);
                assert_eq!(both.r(), all(|it| it.r()));
                assert_eq!(both.c(), store && all(|it| it.c()));
                // A page that may be written may be read.
                assert_eq!(both.eaa().read(), all(|it| it.eaa().read() || it.eaa().write()));
                assert_eq!(both.eaa().execute(), all(|it| it.eaa().execute()));
                let unseen = rc == RcPolicy::HardwareUpdate && !both.c();
                assert_eq!(both.eaa().write(), all(|it| it.eaa().write()) && !unseen);
            }
        }
    }
}
