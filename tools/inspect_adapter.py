#!/usr/bin/env python
"""Show what an adapter file says of itself: ``python tools/inspect_adapter.py FILE.safetensors``; no model is built."""
import argparse
import json

from mmparax.cli import ToolParser, tool


def build_parser() -> ToolParser:
    parser = ToolParser(description='Check that an adapter file is whole and print its description.')
    parser.add_argument('file', help='adapter file')
    parser.add_argument('--json', action='store_true', help='the whole description as JSON')
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from mmparax.weights.adapter_file import format_description, make_printable, read_adapter

    about = read_adapter(args.file).about
    if args.json:
        print(json.dumps(about, indent=2))
        return
    table = Table(title=make_printable(args.file), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    for label, value in format_description(about):
        table.add_row(label, value)
    Console(highlight=False).print(table, markup=False)


if __name__ == '__main__':
    main()
