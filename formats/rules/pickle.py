"""Rules about pickles, which run code when they are loaded."""

from __future__ import annotations

from formats.findings import Rule, Severity

_MODULE = "https://docs.python.org/3/library/pickle.html: the module is not secure, unpickling runs arbitrary code"
_CONVERT = (
    "let packer build convert it (--pickle convert, or validate: {pickle: convert}), or leave it out with --include"
)
_LEAVE_OUT = "leave it out with --include, and ask the author for safetensors"

BY_NAME = Rule(
    "pickle-by-name",
    "it has the name of a pickle",
    "Programs choose by the name of a file whether to unpickle it, and unpickling runs whatever code the file names. "
    "Its content could not be told to be a pickle, so it cannot be converted either.",
    "torch.load, pickle.load and joblib.load of the files .bin .pt .pth .ckpt .pkl .pickle .joblib",
    "rename it if it is no pickle, or leave it out with --include; data of an ONNX model is known by a model that can be read",
)

BY_CONTENT = Rule(
    "pickle-by-content",
    "its content is a pickle, and loading a pickle runs the code inside it",
    "A pickle is a program for a small machine that may import and call anything. The name of the file does not "
    "matter to whoever loads it.",
    _MODULE,
    _CONVERT,
)

DANGEROUS = Rule(
    "pickle-dangerous",
    "it is a pickle that imports what can run commands or reach files and the network",
    "No weights need such an import: it is an attack, or a way to run code that nobody can check. Such a file is "
    "never converted, since that would mean to trust it.",
    _MODULE + "; the list of imports is picklescan's",
    "do not load it anywhere; tell the host of the model, and look for a copy as safetensors",
)

NUMPY_OBJECTS = Rule(
    "pickle-numpy-objects",
    "it is a NumPy array of objects, which is a pickle",
    "NumPy writes arrays of numbers as bytes, but arrays of Python objects as a pickle behind the header.",
    "numpy.lib.format, and numpy.load(allow_pickle=True)",
    "save it with a dtype of numbers, or leave it out with --include",
)

APPENDED = Rule(
    "pickle-appended",
    "a zip archive with a pickle stands at its end, and loading a pickle runs the code inside it",
    "A zip archive is found from its end, whatever stands before it: the file is a picture, a text or a model to one "
    "program and an archive to the next. Looked for in the last 64 KiB of the files on this machine, and of small ones.",
    "https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, section 4.3.16; zipfile.ZipFile",
    "do not load it anywhere; fetch the file again from its source, or leave it out with --include",
)

CONVERTED = Rule(
    "pickle-converted",
    "it was a pickle, and is safetensors now",
    "What is published is not the file of the source: the same tensors, proved bit by bit, under another name. Told by a "
    "build that converts, so that nobody looks for the old name or the old digest.",
    "packer build --pickle convert",
    "nothing is to be done; a model with safetensors of its own needs no conversion",
    Severity.WARNING,
)

TORCHSCRIPT = Rule(
    "pickle-torchscript",
    "it is a TorchScript archive, which holds a program next to pickles",
    "torch.jit.load runs the program. It is no list of tensors, so it cannot be converted into one.",
    "torch.jit.save: code/ and constants.pkl in the archive",
    "export the model to ONNX, or its state_dict() to safetensors; or leave it out with --include",
)

PARTIAL = Rule(
    "pickle-partial",
    "its content is a pickle that can be read in part only, and loading a pickle runs the code inside it",
    "What stands behind the part that was read may import anything, so it is refused and not converted. joblib puts "
    "arrays between the opcodes; a list of a million words has more opcodes than are looked at.",
    _MODULE,
    _LEAVE_OUT,
)

UNREADABLE = Rule(
    "pickle-unreadable",
    "it cannot be told whether this holds a pickle, or what that would import",
    "Stricter than other programs on purpose: archives inside archives, encrypted or damaged ones, more members than "
    "any weights need and compression that takes too much memory hide what they hold, so they are refused without being "
    "unpacked.",
    _MODULE,
    _LEAVE_OUT,
)
