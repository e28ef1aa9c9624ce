//! A Linux guest on AArch64: an `Image`, a device tree, KVM's interrupt controller and PSCI, a
//! serial port, and its page tables of both ranges from outside.
//!
//! | file | what |
//! | --- | --- |
//! | `boot` | what stands where in memory when the guest begins, and the device tree |
//! | `vcpu` | the thread of a vCPU |
//! | `tables` | the guest's tables |

mod boot;
mod tables;
mod vcpu;

use std::fs;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_DEV_ARM_VGIC_CTRL_INIT,
    KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_userspace_memory_region, kvm_vcpu_init,
};
use kvm_ioctls::{DeviceFd, Kvm, VcpuFd, VmFd};
use pgtable::memory::GuestTables;
use pgtable_aarch64::Registers;
use probe_guest::aarch64::Features;
use probe_guest::aarch64::register::{self, LEVEL, PC, PSTATE};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::compare::{Comparison, compare};
use super::dying::last_words;
use super::gate::{Gate, Start};
use super::given::Statement;
use super::screen::Screen;
use super::serial::Port;
use super::watch::{PATIENCE, Watched, watch};
use super::{Event, Options, Translation};
use crate::report::Failure;
use boot::at;

/// How much of memory the kernel's own data is looked for in when it has died: from its start.
const IMAGE_BYTES: usize = 64 << 20;

/// A vCPU's registers while it stands still.
#[derive(Clone, Copy, Debug)]
struct Still {
    pc: u64,
    pstate: u64,
    registers: Registers,
}

impl Still {
    fn of(vcpu: &VcpuFd, features: &Features) -> std::io::Result<Self> {
        Ok(Self {
            pc: register::get(vcpu, PC)?,
            pstate: register::get(vcpu, PSTATE)?,
            registers: features.registers(vcpu)?,
        })
    }
}

/// What vCPUs share with those who watch them.
struct Board<'a> {
    gate: Gate,
    serial: Port<'a>,
    features: Features,
    /// Of each vCPU.
    still: Vec<Mutex<Option<Still>>>,
}

impl Board<'_> {
    fn still(&self, cpu: usize) -> Option<Still> {
        *self.still.get(cpu)?.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest, to those who watch it.
struct Guest<'a> {
    memory: &'a GuestMemoryMmap,
    board: &'a Board<'a>,
    cpus: u32,
}

/// Runs the guest to its end.
pub fn run(options: &Options, memory: u64, verbose: bool) -> Result<String, Failure> {
    if options.mmu != Translation::Radix {
        return Err("AArch64 guests translate as AArch64 does".into());
    }
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm is not usable: {error}"))?;
    let ranges = [(GuestAddress(at::MEMORY), usize::try_from(memory)?)];
    let memory = GuestMemoryMmap::<()>::from_ranges(&ranges)?;
    let vm = kvm.create_vm()?;
    for (slot, region) in (0..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is a mapping of `memory`, which is dropped after the VM and its vCPUs:
        // it stands before them. `vm-memory` hands out volatile and atomic access only.
        unsafe { vm.set_user_memory_region(region) }?;
    }
    let vcpus = vcpus(&vm, options.cpus)?;
    let _controller = interrupt_controller(&vm)?;

    let read = |path: &std::path::Path| {
        fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let kernel = read(options.kernel.as_deref().ok_or("no kernel")?)?;
    let initrd = options.initrd.as_deref().map(read).transpose()?.unwrap_or_default();
    let boot_cpu = vcpus.first().ok_or("no CPU")?;
    boot::boot(&memory, boot_cpu, options.cpus, &kernel, &initrd, &options.append)?;

    let (sender, events) = mpsc::channel::<Event>();
    let screen = Screen::new(options.prefix.clone(), verbose, sender.clone());
    let board = Board {
        gate: Gate::new(options.cpus),
        serial: Port::new(&screen, &vm, at::SERIAL_LINE),
        features: Features::of(boot_cpu)?,
        still: vcpus.iter().map(|_| Mutex::new(None)).collect(),
    };
    let guest = Guest { memory: &memory, board: &board, cpus: options.cpus };
    let start = Instant::now();
    let outcome = thread::scope(|scope| {
        for (cpu, vcpu) in (0..).zip(vcpus) {
            let (board, memory, sender) = (&board, &memory, sender.clone());
            scope.spawn(move || vcpu::run(cpu, vcpu, board, memory, &sender));
            // Those that PSCI has not started wait within KVM.
            board.gate.start(cpu, Start { entry: 0, r3: 0 });
        }
        drop(sender);
        super::input::follow(scope, &board.gate, |bytes| board.serial.type_in(bytes));
        let outcome = watch(&guest, &events, options, verbose);
        board.gate.end();
        outcome
    });
    println!("linux: the guest was there for {:.1} s", start.elapsed().as_secs_f64());
    outcome
}

/// vCPUs, of which the first one runs from the beginning on; PSCI starts the others.
fn vcpus(vm: &VmFd, count: u32) -> Result<Vec<VcpuFd>, Failure> {
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target)?;
    target.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    let vcpu = |cpu: u32| {
        let vcpu = vm.create_vcpu(cpu.into())?;
        let off = if cpu == 0 { 0 } else { 1 << KVM_ARM_VCPU_POWER_OFF };
        let mut target = target;
        target.features[0] |= off;
        vcpu.vcpu_init(&target)?;
        Ok(vcpu)
    };
    (0..count).map(vcpu).collect()
}

/// KVM's GICv3 (Linux, `Documentation/virt/kvm/devices/arm-vgic-v3.rst`), after all vCPUs.
fn interrupt_controller(vm: &VmFd) -> Result<DeviceFd, Failure> {
    let mut device =
        kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, ..Default::default() };
    let device = vm.create_device(&mut device)?;
    for (attr, place) in [
        (KVM_VGIC_V3_ADDR_TYPE_DIST, at::DISTRIBUTOR),
        (KVM_VGIC_V3_ADDR_TYPE_REDIST, at::REDISTRIBUTORS),
    ] {
        let addr = &raw const place as u64;
        let group = KVM_DEV_ARM_VGIC_GRP_ADDR;
        device.set_device_attr(&kvm_device_attr { group, attr: attr.into(), addr, flags: 0 })?;
    }
    device.set_device_attr(&kvm_device_attr {
        group: KVM_DEV_ARM_VGIC_GRP_CTRL,
        attr: KVM_DEV_ARM_VGIC_CTRL_INIT.into(),
        ..Default::default()
    })?;
    Ok(device)
}

impl Guest<'_> {
    /// Stops all vCPUs at a moment at which one of them runs `/init`'s own code.
    fn stop_in_init(&self, statement: &Statement) -> Result<(usize, Still), Failure> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if !self.board.gate.pause(PATIENCE) {
                return Err("a vCPU does not stop".into());
            }
            for cpu in 0..self.board.still.len() {
                match self.board.still(cpu) {
                    Some(it) if it.pstate & LEVEL == 0 && statement.text.contains(&it.pc) => {
                        return Ok((cpu, it));
                    }
                    _ => {}
                }
            }
            self.board.gate.resume();
            if Instant::now() > deadline {
                return Err("the guest's /init is not seen running".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Watched for Guest<'_> {
    fn type_in(&self, bytes: &[u8]) {
        self.board.serial.type_in(bytes);
    }

    fn memory(&self) -> u64 {
        self.memory.last_addr().raw_value() + 1
    }

    fn compare(&self, statement: &Statement) -> Result<Comparison, Failure> {
        let start = Instant::now();
        let (cpu, still) = self.stop_in_init(statement)?;
        println!("linux: CPU {cpu} stopped in /init after {:.1} s", start.elapsed().as_secs_f64());
        let memory = GuestTables::new(self.memory)?;
        let processor = &self.board.features.processor;
        let tables =
            tables::Trees::new(&memory, &still.registers, processor, self.cpus, statement)?;
        let comparison = compare(statement, &tables, self.memory);
        println!("linux: compared after {:.1} s", start.elapsed().as_secs_f64());
        self.board.gate.resume();
        Ok(comparison)
    }

    fn diagnosis(&self) -> String {
        let mut text = Vec::new();
        if self.board.gate.pause(PATIENCE) {
            for cpu in 0..self.board.still.len() {
                if let Some(Still { pc, pstate, registers }) = self.board.still(cpu) {
                    let Registers { ttbr0, ttbr1, .. } = registers;
                    text.push(format!(
                        "CPU {cpu} at pc {pc:#x} pstate {pstate:#x} ttbr0 {ttbr0:#x} ttbr1 {ttbr1:#x}"
                    ));
                }
            }
        } else {
            text.push("a vCPU does not stop".to_owned());
        }
        if let Some(words) = last_words(self.memory, at::MEMORY, IMAGE_BYTES) {
            text.push(format!("its log says \"{words}\""));
        }
        text.join("; ")
    }
}
