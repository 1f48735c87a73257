"""Which mask belongs to which image, and both to which split: by folders, by lists of names, or not yet."""
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mmparax.errors import InputError, MissingFileError, ParameterError
from mmparax.utils.images import IMAGE_ENDINGS, LOSSY_ENDINGS
from mmparax.utils.problems import ProblemList
from mmparax.utils.text import join_names

SPLITS = ('training', 'validation', 'test')
# Ending of a given image -> ending of the written one: mmsegmentation reads the files of one ending in a folder.
SUFFIXES = {ending: {'.jpeg': '.jpg', '.tiff': '.tif'}.get(ending, ending) for ending in IMAGE_ENDINGS}
LOSSLESS = ('.png', '.bmp', '.tif', '.tiff', '.gif')
_FOLDER = re.compile(
    r'(?P<split>train|training|val|valid|validation|test|testing)(?:[-_]?20\d\d)?'
    r'(?P<masks>[-_]?(?:labels?|masks?|annot|annotations?|gt))?', re.IGNORECASE)


@dataclass(frozen=True)
class MatchedFile:
    """An image with its mask.

    Attributes:
        image: its file.
        mask: file of the mask.
        split: one of :data:`SPLITS`, or None if it is to be drawn.
    """
    image: Path
    mask: Path
    split: str | None


@dataclass
class Matches:
    """What :func:`match_files` found.

    Attributes:
        files: images with masks.
        splits: the splits that are given.
        unlisted: number of images that no list names.
    """
    files: list[MatchedFile] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    unlisted: int = 0


@dataclass(frozen=True)
class MaskName:
    """What stands behind the name of an image in that of its mask.

    Attributes:
        marker: such as ``'_L'``, or ''.
        endings: those that are looked for.
    """
    marker: str
    endings: tuple[str, ...]

    def __str__(self) -> str:
        return f'NAME{self.marker}{self.endings[0] if len(self.endings) == 1 else ".png"}'


def parse_mask_suffix(suffix: str) -> MaskName:
    """Read ``'_L'``, ``'_L.png'``, ``'.png'`` or ''.

    Raises:
        ParameterError: if it is a path, or ends as a file that loses values does.
    """
    ending = next((ending for ending in (*LOSSLESS, *LOSSY_ENDINGS) if suffix.lower().endswith(ending)), None)
    if ending in LOSSY_ENDINGS:
        raise ParameterError('mask_suffix', suffix, f'a {ending[1:].upper()} file may alter values and colours; masks end in '
                             f'{", ".join(LOSSLESS)}')
    if '/' in suffix or '\\' in suffix:
        raise ParameterError('mask_suffix', suffix, 'it stands behind the name of the image, such as _L or _L.png')
    return MaskName(suffix, LOSSLESS) if ending is None else MaskName(suffix[:-len(ending)], (ending, ))


def find_split(folder: str) -> str:
    """The split that the name of a folder stands for, such as ``'training'`` for ``'train2017'``, or ''."""
    match = _FOLDER.fullmatch(folder)
    return _get_split(match) if match and not match['masks'] else ''


def _get_split(match: re.Match[str]) -> str:
    return next(split for split in SPLITS if split.startswith(match['split'].lower()[:3]))


def match_files(images: str | Path, masks: str | Path, name: MaskName, lists: Sequence[str | Path] | None,
                problems: ProblemList) -> Matches:
    """Match images and masks.

    Args:
        images: folder of the images, or of the folders ``train``, ``val`` and, if there is one, ``test``.
        masks: the same for the masks.
        name: how the masks are called.
        lists: files with the names for training, validation and, if there are three, test.
        problems: gets what does not fit.

    Raises:
        MissingFileError: if a folder or list does not exist.
        InputError: if folders or lists contradict each other.
    """
    images, masks = Path(images), Path(masks)
    for parameter, folder in (('images', images), ('masks', masks)):
        if not folder.is_dir():
            raise MissingFileError(f'the folder {str(folder)!r} for {parameter} does not exist.')
    if lists is not None:
        return _match_lists(images, masks, name, lists, problems)
    folders = _find_split_folders(images, masks)
    if not folders:
        return Matches([MatchedFile(image, mask, None) for image, mask in _match_folder(images, masks, name, problems)])
    found = Matches(splits=[split for split in SPLITS if split in folders])
    for split in found.splits:
        found.files += [MatchedFile(image, mask, split) for image, mask in _match_folder(*folders[split], name, problems)]
    return found


# ---- folders ----


def _find_split_folders(images: Path, masks: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> (folder of images, folder of masks)."""
    together = images.resolve() == masks.resolve()
    plain, _ = _sort_folders(images)
    if not plain:
        return {}
    loose = [path.name for path in images.iterdir() if _has_ending(path, tuple(SUFFIXES))]
    if loose:
        raise InputError(f'{str(images)!r} holds the folder(s) {join_names(path.name for path in plain.values())}, and beside '
                         f'them {len(loose)} image(s) ({join_names(loose, 3)}) that belong to no split. Move either of them.')
    if 'training' not in plain:
        raise InputError(f'{str(images)!r} holds {join_names(path.name for path in plain.values())}, but no folder train.')
    same, marked = _sort_folders(masks)
    labels = {**same, **marked} if together else {**marked, **same}
    missing = [path.name for split, path in plain.items() if split not in labels]
    if missing:
        raise InputError(f'{str(images)!r} holds the split(s) {join_names(missing)}, and {str(masks)!r} no folder for them: '
                         'every image needs a mask, those for testing as well.')
    return {split: (path, labels[split]) for split, path in plain.items()}


def _sort_folders(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Split -> folder: of the names that are just a split, and of those that say that masks are in it."""
    plain: dict[str, Path] = {}
    marked: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        match = _FOLDER.fullmatch(path.name) if path.is_dir() else None
        if match is None:
            continue
        split = _get_split(match)
        group = marked if match['masks'] else plain
        if split in group:
            raise InputError(f'{str(root)!r} holds two folders for {split}: {group[split].name} and {path.name}. Move one of '
                             'them.')
        group[split] = path
    return plain, marked


def _match_folder(images: Path, masks: Path, name: MaskName, problems: ProblemList) -> list[tuple[Path, Path]]:
    """(image, mask) of every name that both folders have once; the others become problems."""
    files, labels, endings = _index(images, masks, name)
    for folder, there, kinds in ((images, files, endings), (masks, labels, name.endings)):
        if not there:
            marker = f'{name.marker}+ending, where the ending is ' if there is labels and name.marker else ''
            raise MissingFileError(f'the folder {str(folder)!r} holds no file that ends in {marker}{", ".join(kinds)}; folders '
                                   'in it are not looked into'
                                   + (', unless they are called train, val and test.' if folder is images else '.'))
    lonely = [
        path.name for stem, paths in labels.items() if stem not in files for path in paths
        if not _has_ending(path, LOSSY_ENDINGS)
    ]
    remedy = _suggest_suffix(files, [path.name for path in masks.iterdir() if _has_ending(path, LOSSLESS)], name) \
        if not set(files) & set(labels) else ''
    pairs = []
    for stem in files:
        mask = _choose(stem, files, labels, name, problems, remedy)
        if mask is not None:
            pairs.append((files[stem][0], mask))
    for each in lonely:
        problems.add('masks without an image', each)
    return pairs


Files = dict[str, list[Path]]


def _index(images: Path, masks: Path, name: MaskName) -> tuple[Files, Files, tuple[str, ...]]:
    """Images and masks of two folders by the name that they share, and the endings of images."""
    together = images.resolve() == masks.resolve()
    if together and not name.marker:  # then PNG files are masks, or what was asked for
        only = name.endings if len(name.endings) == 1 else ('.png', )
        name = MaskName('', only)
    endings = tuple(suffix for suffix in SUFFIXES if not (together and not name.marker and suffix in name.endings))
    files: Files = defaultdict(list)
    labels: Files = defaultdict(list)
    for path in sorted(masks.iterdir()):
        lossy = LOSSY_ENDINGS if not together or name.marker else ()
        if _has_ending(path, (*name.endings, *lossy)) and path.stem.endswith(name.marker) and path.stem != name.marker:
            labels[path.stem[:len(path.stem) - len(name.marker)]].append(path)
    taken = {path for paths in labels.values() for path in paths} if together else set()
    for path in sorted(images.iterdir()):
        if _has_ending(path, endings) and path not in taken:
            files[path.stem].append(path)
    return files, labels, endings


def _has_ending(path: Path, endings: tuple[str, ...]) -> bool:
    return path.suffix.lower() in endings and not path.name.startswith('.')


def _choose(stem: str, files: Files, labels: Files, name: MaskName, problems: ProblemList, remedy: str = '') -> Path | None:
    """The mask of an image; None, and one more problem, if the names say no or too much."""
    if len(files[stem]) > 1:
        problems.add('names that several images have', join_names(path.name for path in files[stem]))
    masks = labels.get(stem, [])
    good = [path for path in masks if not _has_ending(path, LOSSY_ENDINGS)]
    if len(good) > 1:
        problems.add('names that several masks have', join_names(path.name for path in good))
    elif not good and masks:
        problems.add('masks in a format that alters values and colours', masks[0].name,
                     'JPEG blends neighbours, and no value or colour can be trusted: save PNG files where the masks were made.')
    elif not good:
        problems.add(f'images without a mask ({name})', files[stem][0].name, remedy)
    return good[0] if len(good) == len(files[stem]) == 1 else None


def _suggest_suffix(files: Files, masks: list[str], name: MaskName) -> str:
    """A sentence on what most masks have behind the name of an image, if that is one thing."""
    stems = sorted(files, key=len, reverse=True)[:5000]
    found: Counter[str] = Counter()
    for mask in masks[:50]:
        stem = next((stem for stem in stems if mask.startswith(stem)), None)
        if stem is not None:
            found[Path(mask[len(stem):]).stem if mask[len(stem):].count('.') > 1 else mask[len(stem):].rsplit('.', 1)[0]] += 1
    (marker, count), = found.most_common(1) or [('', 0)]
    if not marker or marker == name.marker or count <= len(masks[:50]) // 2:
        return ''
    return f'The masks seem to be called NAME{marker}: mask_suffix={marker!r}.'


# ---- lists ----


def _match_lists(images: Path, masks: Path, name: MaskName, lists: Sequence[str | Path], problems: ProblemList) -> Matches:
    """The images that the lists name."""
    if not 2 <= len(lists) <= 3:
        raise ParameterError('splits', [str(path) for path in lists], 'there are two or three lists: training, validation and, '
                             'if there is one, test')
    index = cache(lambda parent: _index(images / parent, masks / parent, name))
    found = Matches(splits=list(SPLITS[:len(lists)]))
    seen: dict[tuple[str, str], str] = {}
    written: dict[tuple[str, str], str] = {}
    for split, path in zip(SPLITS, map(Path, lists)):
        entries = _read_list(path)
        if not entries:
            problems.add('lists without a name', str(path))
        for entry in entries:
            parent = Path(entry).parent.as_posix()
            if not (images / parent).is_dir() or not (masks / parent).is_dir():
                parent = '.'
            files, labels, _ = index(parent)
            stem = _find_stem(Path(entry).name, files, name)
            if stem is None:
                problems.add('names in the lists without an image', f'{path.name}: {entry}')
            elif (parent, stem) in seen:
                where = seen[parent, stem]
                problems.add('names that are listed twice', f'{entry}: {where}' +
                             (f', {path.name}' if where != path.name else ''))
            else:
                seen[parent, stem] = path.name
                if written.setdefault((split, stem), parent) != parent:
                    problems.add('names that several images of a list have', f'{written[split, stem]}/{stem}, {parent}/{stem}')
                mask = _choose(stem, files, labels, name, problems)
                if mask is not None:
                    found.files.append(MatchedFile(files[stem][0], mask, split))
    found.unlisted = sum(len(index(parent)[0]) for parent in {parent for parent, _ in seen}) - len(seen)
    return found


def _read_list(path: Path) -> list[str]:
    """The names in a list, with / between folders."""
    try:
        text = path.read_text(encoding='utf-8-sig')
    except FileNotFoundError:
        raise MissingFileError(f'the list {str(path)!r} of splits does not exist.') from None
    except (OSError, ValueError) as error:
        raise InputError(f'the list {str(path)!r} of splits cannot be read as text: {error}.') from error
    return [line.strip().replace('\\', '/') for line in text.splitlines() if line.strip()]


def _find_stem(entry: str, files: Files, name: MaskName) -> str | None:
    """The name of an image, which is listed with or without its ending, or as that of its mask."""
    bare = entry
    if Path(entry).suffix.lower() in (*SUFFIXES, *LOSSLESS):
        bare = entry[:-len(Path(entry).suffix)]
    return next((stem for stem in (entry, bare, bare.removesuffix(name.marker)) if stem in files), None)
