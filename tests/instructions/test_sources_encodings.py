import codecs
import os

import pytest
from corpora import read, reasons

from instructrec_jax.instructions.sources import encodings

FRENCH = "Les élèves étudient la géographie à l'école.\nOù êtes-vous allé hier soir, après ?\n"
RUSSIAN = "Привет, мир! Это простой текст на русском языке.\nОн нужен для проверки кодировки.\n"
CHINESE = "这是一个简单的中文文本，用于检查编码。\n我们希望它能被正确识别，谢谢大家。\n"
JAPANESE = "これは文字コードを確認するための日本語のテキストです。\nよろしくお願いします。\n"
FILES = {
    "utf8.txt": (CHINESE, "utf-8", "utf-8"),
    "bom.txt": (FRENCH, "utf-8-sig", "utf-8-sig"),
    "utf16.txt": (RUSSIAN, "utf-16", "utf-16"),
    "unmarked.txt": (FRENCH, "utf-16-le", "utf-16-le"),
    "utf32.txt": (FRENCH, "utf-32", "utf-32"),
    "latin1.txt": (FRENCH, "latin-1", "cp1252"),
    "cp1251.txt": (RUSSIAN, "cp1251", "cp1251"),
    "gb.txt": (CHINESE, "gb18030", "gb18030"),
    "sjis.txt": (JAPANESE, "shift_jis", "cp932"),
    "jis.txt": (JAPANESE, "iso2022_jp", "iso2022_jp"),
}


def test_a_folder_of_many_encodings(tmp_path):
    for name, (text, encoding, _) in FILES.items():
        (tmp_path / name).write_bytes(text.encode(encoding))
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "blank.txt").write_bytes(b" \n\n")
    (tmp_path / "cut.txt").write_bytes(CHINESE.encode()[:-2])
    (tmp_path / "damaged.txt").write_bytes(FRENCH.encode().replace(b" ", b"\x97", 1))
    (tmp_path / "few.txt").write_bytes("Café\n".encode("latin-1"))
    documents, unreadable = read("text", tmp_path)
    found = {document.uri: document for document in documents}
    assert found.keys() == FILES.keys()
    for name, (text, _, told) in FILES.items():
        # By the codec's own name: Python calls a codec by several.
        assert codecs.lookup(found[name].encoding) == codecs.lookup(told), name
        raw = "\n".join(text.split("\n")[:2])
        assert found[name].hashed == raw
    assert reasons(unreadable) == {
        "binary.txt": "binary",
        "empty.txt": "empty",
        "blank.txt": "empty",
        "cut.txt": "truncated_character",
        "damaged.txt": "damaged_utf8",
        "few.txt": "uncertain_encoding",
    }


TALE = "昔々あるところに、おじいさんとおばあさんが住んでいました。川で洗濯をしていました。\n"
OFFICE = "内閣総理大臣が国会議員と会談した。経済産業省の担当者が庁舎で記者会見を開いた。\n"
FILE = "ファイルを開く前に、コンピューターのアクセス権を確認してください。\n"
SPRING = "春天來了，公園裡的花都開了。因為天氣很好，所以大家都出來散步。\n"
KOREAN = "봄이 와서 공원의 꽃이 모두 피었습니다. 아이들은 풀밭에서 뛰어놉니다.\n"
TWO_BYTES = [
    *((text, encoding) for text in (TALE, OFFICE, FILE) for encoding in ("cp932", "euc_jp")),
    *((SPRING, "big5"), (KOREAN, "cp949"), (CHINESE, "gb18030")),
]


@pytest.mark.parametrize(("text", "encoding"), TWO_BYTES)
def test_two_byte_encodings_are_told_apart_by_their_common_characters(text, encoding):
    # The bytes of one are often valid, rare characters of another.
    assert encodings.encoding_of(text.encode(encoding), whole=True) == encoding


# The first article of the declaration of human rights, and the encodings each language was
# written in.
RIGHTS = {
    "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni "
    "obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa.\n": (
        *("cp1250", "iso8859-2"),
    ),
    "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv. Jsou nadáni rozumem a "
    "svědomím a mají spolu jednat v duchu bratrství.\n": ("cp1250", "iso8859-2"),
    "Minden emberi lény szabadon születik és egyenlő méltósága és joga van. Az emberek, ésszel "
    "és lelkiismerettel bírván, egymással szemben testvéri szellemben kell hogy viseltessenek.\n": (
        *("cp1250", "iso8859-2"),
    ),
    "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana "
    "sahiptirler ve birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler.\n": (
        *("cp1254", "iso8859-9"),
    ),
    "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом "
    "и совестью и должны поступать в отношении друг друга в духе братства.\n": (
        *("cp1251", "koi8-r", "iso8859-5", "cp866", "mac-cyrillic"),
    ),
    "Всі люди народжуються вільними і рівними у своїй гідності та правах. Вони наділені розумом "
    "і совістю і повинні діяти у відношенні один до одного в дусі братерства.\n": (
        *("cp1251", "koi8-u"),
    ),
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι "
    "προικισμένοι με λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με "
    "πνεύμα αδελφοσύνης.\n": ("cp1253", "iso8859-7"),
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך "
    "חובה עליהם לנהוג איש ברעהו ברוח של אחווה.\n": ("cp1255", "iso8859-8"),
    "Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis. Jiems suteiktas protas ir "
    "sąžinė ir jie turi elgtis vienas kito atžvilgiu kaip broliai.\n": ("cp1257", "iso8859-13"),
    "Visi cilvēki piedzimst brīvi un vienlīdzīgi savā pašcieņā un tiesībās. Viņi ir apveltīti "
    "ar saprātu un sirdsapziņu, un viņiem jāizturas citam pret citu brālības garā.\n": (
        *("cp1257", "iso8859-13"),
    ),
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und "
    "Gewissen begabt und sollen einander im Geiste der Brüderlichkeit begegnen.\n": ("cp1252",),
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de "
    "raison et de conscience et doivent agir les uns envers les autres dans un esprit de "
    "fraternité.\n": ("cp1252", "mac-roman"),
}


@pytest.mark.parametrize("text", RIGHTS, ids=lambda text: text.split()[0])
def test_single_byte_encodings_are_told_or_refused_and_never_misread(text):
    told = 0
    for encoding in RIGHTS[text]:
        try:
            found, _ = encodings.decoded(text.encode(encoding))
        except encodings.UndecodableError as error:
            assert error.reason == "uncertain_encoding" and "`encoding=`" in error.detail
        else:
            assert found == text, encoding
            told += 1
    assert told


def test_a_given_encoding_is_taken_at_its_word(tmp_path):
    (tmp_path / "a.txt").write_bytes("Café au lait, s'il vous plaît.".encode("latin-1"))
    (document,), _ = read("text", tmp_path, encoding="latin-1")
    assert document.text == "Café au lait, s'il vous plaît."
    _, (refused,) = read("text", tmp_path, encoding="utf-8")
    assert refused.reason == "undecodable"


def test_random_bytes_are_no_text():
    for seed in range(20):
        data = bytes(hash((seed, n)) & 0xFF for n in range(2_000))
        with pytest.raises(encodings.UndecodableError):
            encodings.decoded(data)


def test_newlines_are_one_sign():
    assert encodings.decoded(b"a\r\nb\nc\r")[0] == "a\nb\nc\r"
    assert encodings.decoded(b"a\rb\r")[0] == "a\nb\n"


def test_a_file_that_may_not_be_read_is_counted(tmp_path):
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("A name that is no UTF-8 holds a text.")
    documents, unreadable = read("text", tmp_path)
    assert reasons(unreadable) == {"gone.txt": "unreadable"}
    assert [document.uri for document in documents] == [r"caf\xe9.txt"]
