"""The functions of ``adapter.c``: name, arguments and result, declared once.

Python's calls are checked against this table, and so are the definitions in C: they are compiled after the prototypes that
it gives (:func:`write_prototypes`), and another definition is an error of the compiler.
"""
import ctypes
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A kind of argument or result.

    Attributes:
        declaration: in C, to be followed by a name.
        ctype: in ctypes.
    """
    declaration: str
    ctype: Any


class Signature(NamedTuple):
    """What a function gives back, None for nothing, and name -> kind of its arguments, in order."""
    result: Kind | None
    arguments: dict[str, Kind]


READ = Kind('const REAL *', ctypes.c_void_p)  # the numbers of a tensor
WRITTEN = Kind('REAL *', ctypes.c_void_p)
READ_LIST = Kind('const REAL *const *', ctypes.POINTER(ctypes.c_void_p))  # of several tensors
WRITTEN_LIST = Kind('REAL *const *', ctypes.POINTER(ctypes.c_void_p))
INTS = Kind('const int *', ctypes.POINTER(ctypes.c_int))
DOUBLES = Kind('const double *', ctypes.POINTER(ctypes.c_double))
INT = Kind('int ', ctypes.c_int)
INTEGER = Kind('long long ', ctypes.c_longlong)
DOUBLE = Kind('double ', ctypes.c_double)

# Of every function that works on tasks, at the end: the shape, and memory for each thread.
SHAPE = dict(batch=INT, height=INT, width=INT, channels=INT, scratch=WRITTEN, room=INTEGER, threads=INT)
FUNCTIONS = {
    'strip_room': Signature(INTEGER, dict(height=INT, width=INT, maps=INT)),
    'whole_room': Signature(INTEGER, dict(height=INT, width=INT, maps=INT, size=INT)),
    'token_statistics': Signature(None,
                                  dict(x=READ, mean=WRITTEN, rstd=WRITTEN, tokens=INTEGER, channels=INT, eps=DOUBLE,
                                       threads=INT)),
    'norm_conv_forward': Signature(
        None,
        dict(x=READ, mean=READ, rstd=READ, norm_weight=READ, norm_bias=READ, kernels=READ, bias=READ, out=WRITTEN,
             out_mean=WRITTEN, **SHAPE)),
    'norm_conv_backward': Signature(
        None,
        dict(grad=READ, grad_mean=READ, x=READ, mean=READ, rstd=READ, norm_weight=READ, norm_bias=READ, kernels=READ, dx=WRITTEN,
             dkernels=WRITTEN, dbias=WRITTEN, dnorm_weight=WRITTEN, dnorm_bias=WRITTEN, sums=WRITTEN, **SHAPE)),
    'out_conv_forward': Signature(
        None, dict(input=READ, kernels=READ, scale=READ, bias=READ, shortcut=READ, shortcut_scale=READ, out=WRITTEN, **SHAPE)),
    'out_conv_backward': Signature(
        None,
        dict(grad=READ, input=READ, kernels=READ, scale=READ, shortcut=READ, shortcut_scale=READ, dinput=WRITTEN,
             dshortcut=WRITTEN, dtaps=WRITTEN, dbias=WRITTEN, dshortcut_scale=WRITTEN, **SHAPE)),
    'mixing_forward': Signature(
        None,
        dict(z=READ, kernels=READ_LIST, sizes=INTS, convs=INT, mixes=DOUBLES, score_weight=READ, score_bias=READ,
             outs=WRITTEN_LIST, alpha=WRITTEN, scores=WRITTEN, mixed=WRITTEN, **SHAPE)),
    'mixing_backward': Signature(
        None,
        dict(grad=READ, z=READ, kernels=READ_LIST, sizes=INTS, convs=INT, mixes=DOUBLES, score_weight=READ, outs=READ_LIST,
             alpha=READ, dz=WRITTEN, dkernels=WRITTEN_LIST, dmixes=WRITTEN, dscore_weight=WRITTEN, dscores=WRITTEN, **SHAPE)),
}


def write_prototypes() -> str:
    """The functions' prototypes in C, for the type of number ``REAL``."""
    lines = []
    for name, (result, arguments) in FUNCTIONS.items():
        declared = ', '.join(f'{kind.declaration}{argument}' for argument, kind in arguments.items())
        lines.append(f'{result.declaration if result else "void "}{name}({declared});\n')
    return ''.join(lines)


def declare(functions: ctypes.CDLL) -> None:
    """Give a loaded library's functions their arguments and results; AttributeError if one is not there."""
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(functions, name)
        function.argtypes = [kind.ctype for kind in arguments.values()]
        function.restype = result and result.ctype
