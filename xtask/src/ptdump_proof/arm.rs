//! AArch64 guests. Their user pages can be asked about while a CPU runs at EL0, and the kernel's
//! while it runs at EL1: so the guest is stopped in both, and written twice.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::compare::{Outcome, Space, compare};
use super::guest::Guest;
use super::ptdump::Ptdump;

/// How long a guest that is never idle may take until it is seen at an exception level.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lets the guest go on until it stands still at this exception level: "EL1h" or "EL0t".
pub fn stop_at(guest: &mut Guest, level: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !guest.monitor("info registers")?.contains(&format!(" {level} ")) {
        if Instant::now() > deadline {
            bail!("the guest is not seen at {level}");
        }
        guest.run(true)?;
        thread::sleep(Duration::from_millis(7));
        guest.run(false)?;
    }
    Ok(())
}

/// The kernel's tables, found without options and by TTBR1_EL1 with TCR_EL1.
pub fn kernel_views(guest: &mut Guest) -> Result<Vec<Vec<String>>> {
    let [tcr, root] = guest.gdb()?.system_registers(["TCR_EL1", "TTBR1_EL1"])?;
    Ok(vec![vec![], view("aarch64-upper", tcr, root)])
}

/// The tables of both address ranges, of a machine without a kernel.
pub fn both_views(guest: &mut Guest) -> Result<Vec<Vec<String>>> {
    let registers = ["TCR_EL1", "TTBR0_EL1", "TTBR1_EL1"];
    let [tcr, lower, upper] = guest.gdb()?.system_registers(registers)?;
    Ok(vec![view("aarch64", tcr, lower), view("aarch64-upper", tcr, upper)])
}

fn view(arch: &str, tcr: u64, root: u64) -> Vec<String> {
    let (tcr, root) = (format!("{tcr:#x}"), format!("{root:#x}"));
    ["--arch", arch, "--tcr", &tcr, "--root", &root].map(str::to_owned).to_vec()
}

/// The same guest a moment later, in its process: the tables that TTBR0_EL1 names.
pub fn compare_user(
    guest: &mut Guest,
    ptdump: &Ptdump,
    seed: u64,
    count: usize,
) -> Result<Outcome> {
    guest.run(true)?;
    stop_at(guest, "EL0t")?;
    let core = guest.folder().join("user.core");
    guest.dump(&core)?;
    let [tcr, root] = guest.gdb()?.system_registers(["TCR_EL1", "TTBR0_EL1"])?;
    compare(guest, ptdump, &core, &view("aarch64", tcr, root), Space::WIDE, seed, count)
}
