"""Opens a report in a headless Chromium: `make check-report REPORT=report.html BROWSER=chromium`. Exits with 1 on a fault.

On a phone (360 px) and on a desk (1280 px), light and dark: the page must not scroll sideways, load nothing, show every
picture, and take the scheme's colours; then it is printed.
"""
import argparse
import html
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = {'phone': (360, 800), 'desk': (1280, 900)}
SCHEMES = dict(dark=0, light=1)  # Blink's numbers
OPTIONS = [
    '--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--allow-file-access-from-files',
    '--host-resolver-rules=MAP * ~NOTFOUND', '--virtual-time-budget=10000'
]
# A window cannot be as narrow as a phone, a frame can.
FRAME = """<!DOCTYPE html><body><iframe id="page" src="{address}" width="{width}" height="{height}" style="border: 0"></iframe>
<script>
page.onload = () => {{
  const view = page.contentWindow, root = view.document.documentElement;
  const found = {{
    width: view.innerWidth, content: root.scrollWidth, height: root.scrollHeight, title: view.document.title,
    loaded: view.performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:')),
    empty: [...view.document.images].filter(image => !image.naturalWidth).length,
    ground: view.getComputedStyle(view.document.body).backgroundColor}};
  const text = document.createElement('pre');
  text.id = 'found';
  text.textContent = JSON.stringify(found);
  document.body.append(text);
}};
</script></body>"""


def run(browser, *arguments):
    """Run the browser; return what it prints."""
    try:
        return subprocess.run([browser, *OPTIONS, *arguments], text=True, capture_output=True, timeout=120, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f'BROWSER={browser!r} could not be run ({error}); on Debian or Ubuntu: apt-get install chromium.')


def open_report(browser, report, size, scheme, folder):
    """Open a report and return what the browser found."""
    width, height = SIZES[size]
    frame = Path(folder) / 'frame.html'
    frame.write_text(FRAME.format(address=report.as_uri(), width=width, height=height), encoding='utf-8')
    shown = run(browser, f'--blink-settings=preferredColorScheme={SCHEMES[scheme]}', '--dump-dom', frame.as_uri())
    found = re.search(r'<pre id="found">(.*?)</pre>', shown, re.S)
    if found is None:
        sys.exit(f'{report} could not be checked: the browser shows no page.')
    return json.loads(html.unescape(found.group(1)))


def find_faults(found, scheme):
    """Say in sentences what is wrong."""
    brightness = sum(map(int, re.findall(r'\d+', found['ground'])[:3])) / 3
    checks = {
        f'the content is {found["content"]} px wide': found['content'] <= found['width'],
        f'it loads {", ".join(found["loaded"][:3])}': not found['loaded'],
        f'{found["empty"]} pictures are empty': not found['empty'],
        f'the ground is {found["ground"]}': (brightness < 64) == (scheme == 'dark'), 'the page has no title': bool(found['title'])
    }
    return [sentence for sentence, right in checks.items() if not right]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('report', type=Path)
    parser.add_argument('--browser', default='chromium')
    args = parser.parse_args()
    if not args.report.is_file():
        sys.exit(f'REPORT={str(args.report)!r} does not exist; tools/analysis_tools/report.py makes one.')
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            for scheme in SCHEMES:
                found = open_report(args.browser, args.report.resolve(), size, scheme, folder)
                faults = find_faults(found, scheme)
                failed += bool(faults)
                print(f'{size}, {scheme}: {found["content"]} of {found["width"]} px wide, {found["height"]} high: '
                      + ('; '.join(faults) or 'good'))
        paper = Path(folder) / 'report.pdf'
        run(args.browser, f'--print-to-pdf={paper}', args.report.resolve().as_uri())
        pages = len(re.findall(rb'/Type\s*/Page\b', paper.read_bytes())) if paper.is_file() else 0
        failed += not pages
        print(f'paper: {pages} pages')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
