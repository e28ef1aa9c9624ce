//! A guest on x86-64 that gdb debugs, behind page tables that this workspace built.
//!
//! ```text
//! $ gdb-stub
//! gdb-stub: listening at 127.0.0.1:40215; tick 0xffffffff80000007 counter 0xffffffff80001000 …
//! $ gdb-multiarch -ex 'target remote 127.0.0.1:40215' -ex 'break *0xffffffff80000007' …
//! ```
//!
//! What gdb asks of memory is answered by one call of `GuestBytes` (`Machine::memory`), from the
//! vCPU's registers and the guest's own tables: over pages that do not follow each other in guest
//! memory, into pages that the guest itself may not write, and with an error where nothing is
//! mapped.
//!
//! | file | what |
//! | --- | --- |
//! | `guest` | the guest's code, memory and tables |
//! | `machine` | the vCPU: registers, memory, breakpoints, running |
//! | `stub` | what `gdbstub` asks of a machine |

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod guest;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod machine;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod stub;

use std::error::Error;
use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn run() -> Result<String, Box<dyn Error>> {
    use std::io::Write;
    use std::net::TcpListener;

    let machine = machine::Machine::new()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("gdb-stub: listening at {}; {}", listener.local_addr()?, guest::symbols());
    std::io::stdout().flush()?;
    let (connection, _) = listener.accept()?;
    stub::serve(machine, connection)
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn run() -> Result<String, Box<dyn Error>> {
    Err("this program runs x86-64 guests on x86-64 hosts".into())
}

fn main() -> ExitCode {
    match run() {
        Ok(end) => {
            println!("gdb-stub: ok {end}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("gdb-stub: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}
