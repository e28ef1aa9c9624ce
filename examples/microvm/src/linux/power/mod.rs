//! A Linux guest on KVM-HV: memory, vCPUs, the PAPR platform, and its page tables from outside.
//!
//! | file | what |
//! | --- | --- |
//! | `host` | KVM under the platform |
//! | `vcpu` | the thread of one vCPU |
//! | `radix` | a radix guest's tables |
//! | `hash` | a hashed guest's table |

mod hash;
mod host;
mod radix;
mod vcpu;

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kvm_ppc::bindings::{KVM_CAP_PPC_PAPR, KVM_VM_PPC_HV, kvm_enable_cap};
use kvm_ppc::host::{self as can, Host};
use kvm_ppc::{Slots, VcpuFd};
use pgtable::{Gpa, Gva};
use pgtable_ppc64::hash::{HptOrder, PageSize};
use pgtable_ppc64::kvm::PpcMmu;
use pseries::{Entry, Machine, Mmu, Platform, boot};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use self::host::KvmHost;
use super::compare::{Comparison, compare};
use super::dying::last_words;
use super::gate::{Gate, Start};
use super::given::Statement;
use super::screen::Screen;
use super::watch::{PATIENCE, Watched, watch};
use super::{Options, Translation};
use crate::report::Failure;

/// MSR\[PR\]: problem state (Power ISA v3.0B, book III 3.2.1).
const MSR_PR: u64 = 1 << 14;

/// Where Linux maps all memory, and with it itself, in the order of real addresses (Linux
/// `PAGE_OFFSET`).
const LINEAR: Gva = Gva::new(0xc000_0000_0000_0000);

/// Where a symbol of a kernel stands that was loaded to 0; `None` for one that is in no image.
fn symbol(va: u64) -> Option<Gpa> {
    va.checked_sub(LINEAR.get()).filter(|offset| offset >> 40 == 0).map(Gpa::new)
}

/// What the kernel's log says on every machine of ours, after what it says of the MMU. (How much
/// memory there is, Linux 6.1 says before the console and 6.12 after the CPUs.)
fn log(cpus: u32) -> [String; 5] {
    [
        "Linux version".into(),
        "Kernel command line: console=hvc0 rdinit=/init".into(),
        // Linux 6.12 says "legacy console".
        "console [hvc0] enabled".into(),
        format!("smp: Brought up 1 node, {cpus} CPU"),
        "Run /init as init process".into(),
    ]
}

/// The guest, to whoever watches it.
struct Guest<'a> {
    platform: &'a Platform<GuestMemoryMmap, KvmHost>,
    /// One past the kernel's last byte.
    kernel: u64,
}

/// Runs the guest to its end.
pub fn run(options: &Options, memory: u64, verbose: bool) -> Result<String, Failure> {
    let kvm = crate::power::kvm()?;
    let can = Host::ask(&kvm)?;
    for (name, value) in can.facts() {
        println!("linux: host: {name}: {value}");
    }
    let translation = match options.mmu {
        Translation::Radix => can::Translation::Radix,
        Translation::Hash => can::Translation::Hash,
    };
    if let Some(refused) = can.refuses(translation) {
        return Err(refused.into());
    }
    let memory =
        GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), usize::try_from(memory)?)])?;
    let slots = Slots::new(kvm.create_vm_with_type(KVM_VM_PPC_HV.into())?, memory.clone())?;
    let vm = slots.vm();
    // Before the first vCPU: it decides what the guest is.
    let mmu = match options.mmu {
        Translation::Radix => Mmu::Radix,
        Translation::Hash => {
            let wanted = HptOrder::recommended(memory.last_addr().raw_value()).max(SMALLEST_TABLE);
            let order = vm.allocate_htab(wanted.get().into())?;
            let order = HptOrder::new(order.into());
            Mmu::Hash {
                order: order.ok_or("KVM made a table of a size that there is not")?,
                largest: if can.page_shift() < PageSize::K64.shift() {
                    PageSize::K4
                } else {
                    PageSize::K64
                },
            }
        }
    };
    let machine = Machine { cpus: options.cpus, mmu };
    let entry = load(options, &memory, machine)?;
    let vcpus = (0..options.cpus)
        .map(|id| {
            let vcpu = vm.create_vcpu(id.into())?;
            vcpu.enable_cap(&kvm_enable_cap { cap: KVM_CAP_PPC_PAPR, ..Default::default() })?;
            Ok(vcpu)
        })
        .collect::<kvm_ppc::Result<Vec<VcpuFd>>>()?;

    let (sender, events) = mpsc::channel();
    let screen = Screen::new(options.prefix.clone(), verbose, sender.clone());
    let gate = Gate::new(options.cpus);
    let host = KvmHost { slots, vcpus: vcpus.iter().map(VcpuFd::control).collect(), gate, screen };
    let platform = Platform::new(memory, host, machine);
    let guest = Guest { platform: &platform, kernel: entry.layout.initrd };
    let start = Instant::now();
    let outcome = thread::scope(|scope| {
        for (cpu, vcpu) in (0..).zip(vcpus) {
            let (platform, sender) = (&platform, sender.clone());
            scope.spawn(move || vcpu::run(cpu, vcpu, platform, &sender));
        }
        drop(sender);
        platform.host().gate.start(0, Start { entry: entry.pc, r3: entry.r3 });
        super::input::follow(scope, &platform.host().gate, |bytes| platform.console.type_in(bytes));
        let outcome = watch(&guest, &events, options, verbose);
        platform.host().gate.end();
        outcome
    });
    println!("linux: the guest was there for {:.1} s", start.elapsed().as_secs_f64());
    outcome
}

/// With a smaller one there are too few entries for the real-mode area of a small guest (a 128th of
/// memory each).
const SMALLEST_TABLE: HptOrder = match HptOrder::new(22) {
    Some(order) => order,
    None => HptOrder::MIN,
};

fn load(options: &Options, memory: &GuestMemoryMmap, machine: Machine) -> Result<Entry, Failure> {
    let read = |path: &std::path::Path| {
        fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let kernel = read(options.kernel.as_deref().ok_or("no kernel")?)?;
    let initrd = options.initrd.as_deref().map(read).transpose()?.unwrap_or_default();
    let command_line = format!("console=hvc0 rdinit=/init panic=-1 {}", options.append);
    Ok(boot(memory, machine, &kernel, &initrd, &command_line)?)
}

impl Guest<'_> {
    fn host(&self) -> &KvmHost {
        self.platform.host()
    }

    /// Stops all vCPUs at a moment at which one of them runs `/init`'s own code; returns which.
    fn stop_in_init(&self, statement: &Statement) -> Result<usize, Failure> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if !self.host().gate.pause(PATIENCE) {
                return Err("a vCPU does not stop".into());
            }
            for (index, vcpu) in self.host().vcpus.iter().enumerate() {
                let regs = vcpu.get_regs()?;
                if regs.msr & MSR_PR != 0 && statement.text.contains(&regs.pc) {
                    return Ok(index);
                }
            }
            self.host().gate.resume();
            if Instant::now() > deadline {
                return Err("the guest's /init is not seen running".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Watched for Guest<'_> {
    fn type_in(&self, bytes: &[u8]) {
        self.platform.console.type_in(bytes);
    }

    fn memory(&self) -> u64 {
        self.platform.memory().last_addr().raw_value() + 1
    }

    fn compare(&self, statement: &Statement) -> Result<Comparison, Failure> {
        let start = Instant::now();
        let index = self.stop_in_init(statement)?;
        println!(
            "linux: CPU {index} stopped in /init after {:.1} s",
            start.elapsed().as_secs_f64()
        );
        let (vcpu, memory) = (&self.host().vcpus[index], self.platform.memory());
        let Machine { cpus, mmu } = self.platform.machine();
        let comparison = match mmu {
            Mmu::Radix => {
                let word = self
                    .platform
                    .process_table()
                    .ok_or("the guest has registered no process table")?;
                let tables = pgtable::memory::GuestTables::new(memory)?;
                compare(statement, &radix::Tree::new(&tables, word, cpus, vcpu)?, memory)
            }
            Mmu::Hash { order, largest } => compare(
                statement,
                &hash::Table::new(self.host().slots.vm(), (order, largest), cpus, vcpu)?,
                memory,
            ),
        };
        println!("linux: compared after {:.1} s", start.elapsed().as_secs_f64());
        self.host().gate.resume();
        Ok(comparison)
    }

    fn diagnosis(&self) -> String {
        let stopped = self.host().gate.pause(PATIENCE);
        let mut text = Vec::new();
        for (cpu, vcpu) in self.host().vcpus.iter().enumerate() {
            if !stopped {
                text.push("a vCPU does not stop".to_owned());
                break;
            }
            if self.host().gate.state(cpu as u32) == pseries::CpuState::Running {
                if let Ok(regs) = vcpu.get_regs() {
                    text.push(format!(
                        "CPU {cpu} at pc {:#x} lr {:#x} msr {:#x}",
                        regs.pc, regs.lr, regs.msr
                    ));
                }
            }
        }
        // The log is among the kernel's data, which is its last part.
        let data = self.kernel.min(16 << 20);
        if let Some(words) = last_words(self.platform.memory(), self.kernel - data, data as usize) {
            text.push(format!("its log says \"{words}\""));
        }
        text.join("; ")
    }
}
