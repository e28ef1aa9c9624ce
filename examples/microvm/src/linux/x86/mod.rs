//! A Linux guest on x86-64: a bzImage, boot tables by `pgtable-x86`, a serial console, and its page
//! tables from outside.
//!
//! There is one CPU and no firmware, so neither ACPI nor MP tables: the kernel finds KVM’s clock, a
//! PIC, and COM1. It ends by asking the keyboard controller for a reset, which is all that it finds
//! to end by.
//!
//! | file | what |
//! | --- | --- |
//! | `boot` | what stands where in memory when the guest begins |
//! | `port` | COM1, and the ports behind which nothing is |
//! | `vcpu` | the thread of the vCPU |
//! | `tables` | the guest's tables |

mod boot;
mod port;
mod tables;
mod vcpu;

use std::fs;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{CpuId, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_regs, kvm_sregs};
use kvm_ioctls::{Cap, Kvm};
use kvm_x86::{Features, Slots};
use pgtable::memory::GuestTables;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use self::port::Ports;
use super::compare::{Comparison, compare};
use super::dying::last_words;
use super::gate::{Gate, Start};
use super::given::Statement;
use super::screen::Screen;
use super::watch::{PATIENCE, Watched, watch};
use super::{Event, Options, Translation};
use crate::report::Failure;

/// Where the kernel's own data is looked for when it has died: from its preferred address on.
const IMAGE: (u64, usize) = (0x100_0000, 64 << 20);

/// A vCPU's registers while it stands still.
#[derive(Clone, Debug)]
struct Registers {
    regs: kvm_regs,
    sregs: kvm_sregs,
}

/// The guest, to whoever watches it.
struct Guest<'a> {
    memory: &'a GuestMemoryMmap,
    features: Features,
    gate: &'a Gate,
    ports: &'a Ports<'a>,
    registers: &'a Mutex<Option<Registers>>,
}

/// Runs the guest to its end.
pub fn run(options: &Options, memory: u64, verbose: bool) -> Result<String, Failure> {
    if options.cpus != 1 || options.mmu != Translation::Radix {
        return Err("x86-64 guests have one CPU, and translate as x86-64 does".into());
    }
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm is not usable: {error}"))?;
    let (features, cpuid) = Features::supported(&kvm)?;
    let memory =
        GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), usize::try_from(memory)?)])?;
    let vm = kvm.create_vm()?;
    // Intel's processors need three pages for it when a guest is in real mode; ours never is.
    vm.set_tss_address(0xfffb_d000)?;
    vm.create_irq_chip()?;
    vm.create_pit2(kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() })?;
    let slots = Slots::new(vm, memory.clone())?;
    let vcpu = slots.vm().create_vcpu(0)?;
    vcpu.set_cpuid2(&told(cpuid, &kvm))?;

    let read = |path: &std::path::Path| {
        fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let kernel = read(options.kernel.as_deref().ok_or("no kernel")?)?;
    let initrd = options.initrd.as_deref().map(read).transpose()?.unwrap_or_default();
    boot::boot(&memory, &vcpu, features, &kernel, &initrd, &options.append)?;

    let (sender, events) = mpsc::channel::<Event>();
    let screen = Screen::new(options.prefix.clone(), verbose, sender.clone());
    let gate = Gate::new(1);
    let registers = Mutex::new(None);
    let ports = Ports::new(&screen, slots.vm());
    let guest =
        Guest { memory: &memory, features, gate: &gate, ports: &ports, registers: &registers };
    let start = Instant::now();
    let outcome = thread::scope(|scope| {
        let (gate, ports, registers, memory) = (&gate, &ports, &registers, &memory);
        scope.spawn(move || vcpu::run(vcpu, gate, ports, registers, memory, &sender));
        gate.start(0, Start { entry: 0, r3: 0 });
        super::input::follow(scope, gate, |bytes| ports.type_in(bytes));
        let outcome = watch(&guest, &events, options, verbose);
        gate.end();
        outcome
    });
    println!("linux: the guest was there for {:.1} s", start.elapsed().as_secs_f64());
    outcome
}

/// What the CPU says of itself: what KVM can do, and what it leaves to a VMM to say. That there is
/// a hypervisor, so that the guest looks for its clock; and that the local APIC's timer follows the
/// time-stamp counter, so that nothing has to be measured.
fn told(mut cpuid: CpuId, kvm: &Kvm) -> CpuId {
    /// CPUID.01H:ECX (SDM vol. 2; bit 31 is not the processor's).
    const HYPERVISOR: u32 = 1 << 31;
    const TSC_DEADLINE: u32 = 1 << 24;
    let deadline = if kvm.check_extension(Cap::TscDeadlineTimer) { TSC_DEADLINE } else { 0 };
    for leaf in cpuid.as_mut_slice().iter_mut().filter(|leaf| leaf.function == 1) {
        leaf.ecx |= HYPERVISOR | deadline;
    }
    cpuid
}

impl Guest<'_> {
    fn registers(&self) -> Option<Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the vCPU at a moment at which it runs `/init`'s own code.
    fn stop_in_init(&self, statement: &Statement) -> Result<Registers, Failure> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if !self.gate.pause(PATIENCE) {
                return Err("the vCPU does not stop".into());
            }
            if let Some(it) = self.registers() {
                if it.sregs.cs.dpl == 3 && statement.text.contains(&it.regs.rip) {
                    return Ok(it);
                }
            }
            self.gate.resume();
            if Instant::now() > deadline {
                return Err("the guest's /init is not seen running".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Watched for Guest<'_> {
    fn type_in(&self, bytes: &[u8]) {
        self.ports.type_in(bytes);
    }

    fn memory(&self) -> u64 {
        self.memory.last_addr().raw_value() + 1
    }

    fn compare(&self, statement: &Statement) -> Result<Comparison, Failure> {
        let start = Instant::now();
        let registers = self.stop_in_init(statement)?;
        println!("linux: CPU 0 stopped in /init after {:.1} s", start.elapsed().as_secs_f64());
        let memory = GuestTables::new(self.memory)?;
        let tables = tables::Trees::new(&memory, &registers, self.features, statement)?;
        let comparison = compare(statement, &tables, self.memory);
        println!("linux: compared after {:.1} s", start.elapsed().as_secs_f64());
        self.gate.resume();
        Ok(comparison)
    }

    fn diagnosis(&self) -> String {
        let mut text = Vec::new();
        if self.gate.pause(PATIENCE) {
            if let Some(Registers { regs, sregs }) = self.registers() {
                text.push(format!(
                    "CPU 0 at rip {:#x} rsp {:#x} cr3 {:#x}",
                    regs.rip, regs.rsp, sregs.cr3
                ));
            }
        } else {
            text.push("the vCPU does not stop".to_owned());
        }
        if let Some(words) = last_words(self.memory, IMAGE.0, IMAGE.1) {
            text.push(format!("its log says \"{words}\""));
        }
        text.join("; ")
    }
}
