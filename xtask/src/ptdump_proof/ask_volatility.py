# volatility3's layer of x86-64, without symbols: lists, or asked for addresses on standard input.
import pathlib
import sys

from volatility3.framework import contexts, exceptions
from volatility3.framework.layers import elf, intel, physical

what, core, root = sys.argv[1:4]
context = contexts.Context()


def layer(kind, name, **settings):
    for key, value in settings.items():
        context.config["it." + name + "." + key] = value
    it = kind(context, "it." + name, name)
    context.add_layer(it)
    return it


layer(physical.FileLayer, "file", location=pathlib.Path(core).absolute().as_uri())
layer(elf.Elf64Layer, "memory", base_layer="file")
virtual = layer(
    intel.Intel32e, "virtual", memory_layer="memory", page_map_offset=int(root, 16)
)
if what == "list":
    halves = (0, 0x7FFF_FFFF_FFFF), (0xFFFF_8000_0000_0000, 0xFFFF_FFFF_FFFF_FFFF)
    for first, last in halves:
        for at, size, to, _, _ in virtual.mapping(first, last - first, ignore_errors=True):
            print(hex(at), hex(size), hex(to))
else:
    answers = []
    for line in sys.stdin:
        try:
            answers.append(hex(virtual.translate(int(line, 16))[0]))
        except exceptions.InvalidAddressException:
            answers.append("-")
    print("\n".join(answers))
