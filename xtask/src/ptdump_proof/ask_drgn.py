# drgn, asked for eight bytes at each address on standard input: a core, and VMCOREINFO in a file.
import sys
import drgn

program = drgn.Program(vmcoreinfo=open(sys.argv[2], "rb").read())
program.set_core_dump(sys.argv[1])
answers = []
for line in sys.stdin:
    try:
        answers.append(program.read(int(line, 16), 8).hex())
    except drgn.FaultError:
        answers.append("-")
print("\n".join(answers))
