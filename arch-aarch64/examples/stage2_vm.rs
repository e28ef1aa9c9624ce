//! A VM that its vCPUs share: `Arc<Vm>` with the second stage behind a mutex. Each vCPU's thread
//! takes stage-2 aborts, and faults pages in as its handler at EL2 does.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread;

use frag_alloc::{Cache, Frames, HostStage2, Kind, Owner, Policy, Region};
use pgtable::invalidate::Unused;
use pgtable::memory::DirectMap;
use pgtable::second_stage::{FaultInError, HostPage, MemorySlot, Stage2Tree};
use pgtable::{Access, Gpa, Hpa, Prot};
use pgtable_aarch64::{Abort, Stage2Controls, VmsaStage2, hpfar};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type HostMemory = DirectMap<'static, Hpa>;

/// The guest's memory, and where the host has it.
const RAM: u64 = 0x4000_0000;
const BACKING: u64 = 1 << 32;
const PAGES: u64 = 512;

struct Vm {
    slot: MemorySlot,
    // No CPU runs this guest, so `Unused` stands for TLBI, and `()` for the VMID.
    stage: Mutex<HostStage2<VmsaStage2, HostMemory, ()>>,
}

impl Vm {
    fn new(memory: HostMemory) -> Result<Self, Failure> {
        let frames = Arc::new(Frames::new(Region::new(memory, Hpa::new(0), 16, 16)?)?);
        let tables = Cache::new(Arc::clone(&frames), Owner(7), Kind::User, Policy::Reuse);
        let format = VmsaStage2::new(Stage2Controls::new())?;
        let stage = Stage2Tree::new(format, frames, Arc::new(tables), ())?;
        println!("VTTBR_EL2 {:#x}", format.vttbr(stage.root(), 7).into_bits());
        let (gpa, bytes, hva) = (Gpa::new(RAM), PAGES << 12, BACKING);
        let slot = MemorySlot { gpa, bytes, hva, read_only: false, logged: false };
        Ok(Self { slot, stage: Mutex::new(stage) })
    }

    /// The handler of an exception from the guest.
    fn abort(&self, esr: u64, far: u64, hpfar: u64) -> Result<(), Failure> {
        let abort = Abort::from_registers(esr, far, hpfar)?;
        let (ipa, kind) = (abort.ipa().ok_or("ask AT S1E1R")?, abort.access().kind);
        let ticket = self.stage.lock().expect("alive").ticket();
        // Without the lock: the host looks its page up, and brings it into memory.
        let frame = Hpa::new(self.slot.host_address(ipa).ok_or("no memory: emulate it")? & !0xfff);
        let page = HostPage { frame, shift: 12, attributes: Prot::RWX.into() };
        let mut stage = self.stage.lock().expect("alive");
        let mut gather = stage.gather(&Unused);
        match stage.fault_in(ticket, ipa, kind, &self.slot, page, &mut gather, |_| ()) {
            Ok(_) | Err(FaultInError::Again) => {} // the guest goes on, or repeats the access
            Err(error) => return Err(error.into()),
        }
        stage.finish(&mut gather).map(drop).map_err(Into::into)
    }

    /// A guest's stores: until the processor allows one, it aborts.
    fn store(&self, gpa: Gpa) -> Result<(), Failure> {
        let walk = || self.stage.lock().expect("alive").walker().translate(gpa, Access::WRITE);
        while let Err(fault) = walk() {
            self.abort(fault.arch.into_bits(), gpa.get(), hpfar(fault.address))?;
        }
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let words: Vec<_> = (0..1 << 17).map(|_| AtomicU64::new(0)).collect();
    let vm = Arc::new(Vm::new(DirectMap::new(words.leak(), Hpa::new(0)))?);
    let vcpus = [0, PAGES - 1].map(|last| {
        let (vm, page) = (Arc::clone(&vm), move |n: u64| Gpa::new(RAM + ((n ^ last) << 12)));
        thread::spawn(move || (0..PAGES).try_for_each(|n| vm.store(page(n))))
    });
    vcpus.into_iter().try_for_each(|vcpu| vcpu.join().expect("no vCPU panics"))?;
    let stage = Arc::into_inner(vm).ok_or("the threads have ended")?.stage.into_inner()?;
    let found = stage.walker().translate(Gpa::new(RAM + 0x5678), Access::READ)?;
    assert_eq!(found.output, Hpa::new(BACKING + 0x5678));
    Ok(stage.destroy(&Unused).map_err(|(_, error)| error).map(drop)?)
}
