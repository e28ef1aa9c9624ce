//! `/init` of the microVM’s Linux guests.
//!
//! What it does, the kernel’s command line says:
//!
//! | argument | what |
//! | --- | --- |
//! | `microvm=statement`, or none | says where its pages are (see [`guest_init`]), waits for a line, powers off |
//! | `microvm=shell` | runs busybox’s shell, powers off when that ends |
//! | `microvm=panic` | makes the kernel panic |
//! | `microvm=hang` | stays in user mode for ever |

#[cfg(target_os = "linux")]
mod kernel;
#[cfg(target_os = "linux")]
mod regions;
#[cfg(target_os = "linux")]
mod tell;

#[cfg(target_os = "linux")]
fn main() {
    if let Err(error) = run() {
        println!("guest-init: {error}");
    }
    kernel::power_off();
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn run() -> std::io::Result<()> {
    kernel::mount_all()?;
    // What the kernel does not know on its command line becomes init's environment.
    match std::env::var("microvm").as_deref() {
        Ok("shell") => {
            println!("guest-init: a shell; the machine powers off when it ends");
            std::process::Command::new("/bin/busybox").args(["sh"]).status().map(drop)
        }
        Ok("panic") => std::fs::write("/proc/sysrq-trigger", "c"),
        Ok("hang") => loop {
            std::hint::spin_loop();
        },
        _ => tell::tell_and_wait(),
    }
}
