//! What a host can do for guests: partly KVM says so, partly it shows when it is tried.
//!
//! On bare metal KVM-HV runs guests in supervisor state itself. In a logical partition (LPAR) it
//! asks the hypervisor to: by Linux's API v1 (`H_ENTER_NESTED`) or by PAPR's v2
//! (`H_GUEST_RUN_VCPU`), and guests have radix trees only. Which API it is, KVM tells no program;
//! the kernel's log and release do.

use std::fs;
use std::io;

use pgtable_ppc64::hash::Supported;
use pgtable_ppc64::kvm::{PpcMmu, kvm_ppc_rmmu_info};

use crate::bindings::{KVM_REG_PPC_ARCH_COMPAT, KVM_VM_PPC_HV};
use crate::{Cap, Kvm};

/// How KVM runs guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Itself, on bare metal.
    Bare,
    /// In an LPAR, by Linux's nested API v1.
    V1,
    /// In an LPAR, by PAPR's nested API v2.
    V2,
    /// In an LPAR, by an API that this process cannot find out.
    Unknown,
}

/// A translation that a guest may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Radix trees.
    Radix,
    /// A hashed page table.
    Hash,
}

/// What a host can do.
#[derive(Clone, Debug)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// How `/proc/cpuinfo` names the processor, the platform and the kernel's own MMU.
    pub cpu: Vec<(&'static str, String)>,
    /// Bytes of the kernel's pages, which back a guest's memory.
    pub page_size: u64,
    /// How KVM runs guests.
    pub api: Api,
    /// The shapes of radix trees that guests may have; `None`: guests have no radix trees.
    pub radix: Option<kvm_ppc_rmmu_info>,
    /// What guests with a hashed page table may use; `None`: there are none.
    pub hash: Option<Supported>,
    /// Whether such guests may name the table in a process table (ISA v3.0).
    pub hash_v3: bool,
    /// Whether guests may run guests of their own.
    pub nested: bool,
    /// Whether KVM carries out `H_RPT_INVALIDATE`.
    pub rpt_invalidate: bool,
    /// The processors that a guest may be told it runs on.
    pub compatible: Vec<&'static str>,
}

/// Logical processor versions (PAPR B.6.2.1; Linux `PVR_ARCH_300` and on).
const LOGICAL: [(&str, u32); 3] =
    [("POWER9", 0x0f00_0005), ("POWER10", 0x0f00_0006), ("POWER11", 0x0f00_0007)];
/// log2 of the bytes of the table by which hashed guests are tried.
const ORDER: u32 = 18;

impl Host {
    /// Asks KVM, in VMs that are gone afterwards.
    ///
    /// # Errors
    /// The OS error: KVM-HV makes no VM.
    pub fn ask(kvm: &Kvm) -> io::Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu: Vec<_> = ["cpu", "platform", "machine", "MMU"]
            .into_iter()
            .filter_map(|name| Some((name, field(&cpuinfo, name)?)))
            .collect();
        let lpar = cpu.iter().any(|(name, value)| *name == "platform" && value == "pSeries");
        let vm = kvm.create_vm_with_type(KVM_VM_PPC_HV.into())?;
        let radix =
            if kvm.check_extension(Cap::PpcMmuRadix) { Some(vm.get_rmmu_info()?) } else { None };
        // An LPAR answers this call, too, and refuses the table.
        let hash = Supported::of_kvm(&vm.get_smmu_info()?);
        let hash = hash.filter(|_| vm.allocate_htab(ORDER).is_ok());
        drop(vm);
        Ok(Self {
            api: if lpar { api_of_lpar(kernel.trim(), log().as_deref()) } else { Api::Bare },
            kernel: kernel.trim().to_owned(),
            cpu,
            page_size: page_size(),
            radix,
            hash,
            hash_v3: kvm.check_extension(Cap::PpcMmuHashV3),
            nested: kvm.check_extension(Cap::PpcNestedHv),
            rpt_invalidate: kvm.check_extension(Cap::PpcRptInvalidate),
            compatible: compatible(kvm)?,
        })
    }

    /// A host of which nothing is known: for tests of what depends on some of it.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            kernel: String::new(),
            cpu: vec![],
            page_size: 1 << 12,
            api: Api::Unknown,
            radix: None,
            hash: None,
            hash_v3: false,
            nested: false,
            rpt_invalidate: false,
            compatible: vec![],
        }
    }

    /// Whether the host itself runs on QEMU, which tells its name in `/proc/cpuinfo`.
    #[must_use]
    pub fn is_emulated_by_qemu(&self) -> bool {
        self.cpu
            .iter()
            .any(|(name, value)| *name == "machine" && value.contains("emulated by qemu"))
    }

    /// Why a guest cannot have this translation here, if it cannot.
    #[must_use]
    pub fn refuses(&self, translation: Translation) -> Option<String> {
        let refused = match translation {
            Translation::Radix if self.radix.is_none() => {
                "this host runs no guests with radix trees: its own kernel uses a hashed page table"
            }
            Translation::Hash if self.hash.is_none() && self.api != Api::Bare => {
                "this host runs no guests with hashed page tables: it is a logical partition"
            }
            Translation::Hash if self.hash.is_none() => {
                "this host runs no guests with hashed page tables"
            }
            _ => return None,
        };
        Some(refused.to_owned())
    }

    /// The largest page that a hashed guest may have of memory that is made of the kernel's pages:
    /// log2 of its bytes.
    #[must_use]
    pub fn page_shift(&self) -> u8 {
        self.page_size.trailing_zeros() as u8
    }

    /// What there is to know, by name, for a person.
    #[must_use]
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let api = match self.api {
            Api::Bare => "bare metal",
            Api::V1 => "logical partition, nested API v1",
            Api::V2 => "logical partition, nested API v2",
            Api::Unknown => "logical partition, nested API not known",
        };
        let mut facts = vec![("kernel", self.kernel.clone())];
        facts.extend(self.cpu.iter().cloned());
        facts.push(("pages", format!("{} KiB", self.page_size >> 10)));
        facts.push(("KVM runs guests on", api.to_owned()));
        facts.push(("radix guests", yes(self.radix.is_some())));
        let hashed = self.hash.as_ref().map_or_else(
            || "no".to_owned(),
            |it| {
                let sizes: Vec<_> = it.sizes.iter().map(|pair| size_words(*pair)).collect();
                let limit =
                    if it.limited_by_backing { ", no page larger than its backing" } else { "" };
                format!("{} SLB entries, pages {}{limit}", it.slb_size, sizes.join(" "))
            },
        );
        facts.push(("hashed guests", hashed));
        facts.push(("hash, ISA v3.0", yes(self.hash_v3)));
        facts.push(("nested guests", yes(self.nested)));
        facts.push(("H_RPT_INVALIDATE", yes(self.rpt_invalidate)));
        facts.push(("guests may see", self.compatible.join(", ")));
        facts
    }
}

fn size_words(pair: pgtable_ppc64::hash::PageSizes) -> String {
    let (base, actual) = (pair.base().shift(), pair.actual().shift());
    if base == actual { format!("2^{base}") } else { format!("2^{actual} in 2^{base}") }
}

/// The value of a field of `/proc/cpuinfo`, of the first processor.
fn field(cpuinfo: &str, name: &str) -> Option<String> {
    let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn page_size() -> u64 {
    // SAFETY: sysconf takes a number and returns one.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // It does not fail for this one; 4 KiB is the least that there is.
    u64::try_from(bytes).unwrap_or(1 << 12)
}

/// The kernel's log, if this process may read it.
fn log() -> Option<String> {
    const READ_ALL: libc::c_int = 3;
    const SIZE: libc::c_int = 10;
    // SAFETY: this call takes no buffer.
    let size = unsafe { libc::klogctl(SIZE, std::ptr::null_mut(), 0) };
    let mut bytes = vec![0_u8; usize::try_from(size).ok()?];
    // SAFETY: the kernel writes at most `size` bytes into `bytes`, which has as many.
    let length = unsafe { libc::klogctl(READ_ALL, bytes.as_mut_ptr().cast(), size) };
    bytes.truncate(usize::try_from(length).ok()?);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Which nested API an LPAR's kernel uses. v2 is there since 6.7; a kernel that has it and finds no
/// hypervisor for it says so (`kvmhv_nested_init`).
fn api_of_lpar(release: &str, log: Option<&str>) -> Api {
    let mut numbers = release.split(['.', '-', '+']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Api::Unknown;
    };
    match log {
        _ if (major, minor) < (6, 7) => Api::V1,
        Some(log) if log.contains("falling back to nestedv1") => Api::V1,
        Some(_) => Api::V2,
        None => Api::Unknown,
    }
}

fn compatible(kvm: &Kvm) -> io::Result<Vec<&'static str>> {
    let vcpu = kvm.create_vm_with_type(KVM_VM_PPC_HV.into())?.create_vcpu(0)?;
    let taken =
        |version: u32| vcpu.set_one_reg(KVM_REG_PPC_ARCH_COMPAT, &version.to_ne_bytes()).is_ok();
    Ok(LOGICAL.into_iter().filter(|(_, version)| taken(*version)).map(|(name, _)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nested_api_is_told_from_release_and_log() {
        let fallback = "kvm-hv: nestedv2 get capabilities hcall failed, falling back to nestedv1";
        for (release, log, api) in [
            ("6.1.0-50-powerpc64le", Some(""), Api::V1),
            ("6.1.0-50-powerpc64le", None, Api::V1),
            ("6.12.57+deb13-powerpc64le-64k", Some("other lines"), Api::V2),
            ("6.12.57+deb13-powerpc64le-64k", Some(fallback), Api::V1),
            ("6.12.57+deb13-powerpc64le", None, Api::Unknown),
            ("7.0", Some(""), Api::V2),
            ("", Some(""), Api::Unknown),
        ] {
            assert_eq!(api_of_lpar(release, log), api, "{release} {log:?}");
        }
    }

    #[test]
    fn a_field_of_cpuinfo() {
        let cpuinfo = "processor\t: 0\ncpu\t\t: POWER10 (architected)\n\nMMU\t\t: Radix\n";
        assert_eq!(field(cpuinfo, "cpu").as_deref(), Some("POWER10 (architected)"));
        assert_eq!(field(cpuinfo, "platform"), None);
    }

    /// A host of which nothing was asked.
    fn host(api: Api, radix: bool) -> Host {
        Host { api, radix: radix.then(kvm_ppc_rmmu_info::default), ..Host::unknown() }
    }

    #[test]
    fn what_a_host_has_not_is_refused_by_name() {
        let rows = [
            (Api::V2, true, Translation::Radix, None),
            (Api::Bare, false, Translation::Radix, Some("radix")),
            (Api::V2, true, Translation::Hash, Some("logical partition")),
            (Api::V1, true, Translation::Hash, Some("logical partition")),
            (Api::Bare, true, Translation::Hash, Some("hashed page tables")),
        ];
        for (api, radix, translation, named) in rows {
            let refused = host(api, radix).refuses(translation);
            match named {
                None => assert_eq!(refused, None),
                Some(named) => assert!(refused.is_some_and(|it| it.contains(named)), "{api:?}"),
            }
        }
    }

    #[test]
    fn page_sizes_of_hosts() {
        assert_eq!(host(Api::Bare, true).page_shift(), 12);
        assert_eq!(Host { page_size: 1 << 16, ..host(Api::Bare, true) }.page_shift(), 16);
    }
}
