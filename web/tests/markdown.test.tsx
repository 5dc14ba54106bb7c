import { renderToStaticMarkup } from "react-dom/server";
import { describe, expect, it } from "vitest";
import { Blocks } from "../src/markdown/blocks";
import { decodeEntities } from "../src/markdown/entities";
import { hiddenHost, safeUrl } from "../src/markdown/links";
import { Markdown } from "../src/markdown/Markdown";
import { mend } from "../src/markdown/mend";
import { piecesOf } from "../src/markdown/pieces";

const html = (text: string, growing = false) => renderToStaticMarkup(<Markdown text={text} growing={growing} />);

const RICH = `# Title

Some **bold**, *slanted* and \`code\` text with a [link](https://example.com/a_(b)).

- one
- two
  1. nested

  still two

| a | b |
|:--|--:|
| 1 | 2 |

\`\`\`python
def f():

    return "\`\`"
\`\`\`

> quoted
> more

Setext
======

    indented code

[ref]: https://example.com
A [ref] and the end.
`;

const ODD = `1. **First**: with \`code\` and ~~gone~~
2. ***Both*** and a_b_c, 2 * 3 * 4, \`\` \`x\` \`\`

   - [x] done
   - [ ] to do, see ![a picture](https://example.com/p.png) here

* * *

### A heading with *slant*

> - quoted **list**
> - its [second](https://example.com "Title") item

Some <b>html</b> and &amp; an entity.

~~~
tildes
~~~
`;

describe("blocks", () => {
  it("are the same however the text grew", () => {
    for (const step of [1, 3, 7, 50]) {
      const blocks = new Blocks();
      for (let end = 0; end < RICH.length; end += step) blocks.update(RICH.slice(0, end), true);
      const raw = (tokens: { type: string; raw: string }[]) => tokens.map(({ type, raw: text }) => [type, text]);
      expect(raw(blocks.update(RICH, false))).toEqual(raw(new Blocks().update(RICH, false)));
    }
  });

  it("keep the identity of what is settled", () => {
    const blocks = new Blocks();
    const [first] = blocks.update("One.\n\nTwo", true);
    expect(blocks.update("One.\n\nTwo and more.\n\nThree", true)[0]).toBe(first);
  });

  it("begin anew when the text does", () => {
    const blocks = new Blocks();
    blocks.update("One.\n\nTwo.\n\nThree", true);
    expect(blocks.update("Other", true).map(({ raw }) => raw)).toEqual(["Other"]);
  });

  it("read any line ends", () => {
    const blocks = new Blocks();
    blocks.update("One\r\n\r\nTwo\r", true);
    expect(blocks.update("One\r\n\r\nTwo\r\n\r\nThree", false).filter(({ type }) => type === "paragraph")).toHaveLength(3);
  });
});

describe("what is half written", () => {
  it.each([
    ["some **bol", "some **bol**"],
    ["some **bold** and *sl", "some **bold** and *sl*"],
    ["a `cod", "a `cod`"],
    ["a `", "a "],
    ["a **", "a "],
    ["~~gone", "~~gone~~"],
    ["**bold with `code", "**bold with `code`**"],
    ["see [the li", "see the li"],
    ["see [the link](https://exam", "see the link"],
    ["see [the link](https://example.com) now", "see [the link](https://example.com) now"],
    ["see ![pic", "see Image: pic"],
    ["see ![pic]", "see Image: pic"],
    ["see [the link]", "see the link"],
    ["see [the link](https://example.com/a_(b", "see the link"],
    ["see [the link](https://example.com/a_(b)", "see the link"],
    ["a `` `tick", "a `` `tick``"],
    ["a `` `tick`", "a `` `tick` ``"],
    ["- one\n- [ ]", "- one"],
    ["A paragraph\n-", "A paragraph"],
    ["A paragraph\n1.", "A paragraph"],
    ["##", ""],
    ["2 * 3 * 4", "2 * 3 * 4"],
    ["snake_case_name", "snake_case_name"],
    ["an array[0] of", "an array[0] of"],
    ["A paragraph\n| a | b", "A paragraph"],
    ["| a | b |\n|--", ""],
    ["| a | b |\nand no table", "| a | b |\nand no table"],
    ["escaped \\*star", "escaped \\*star"],
  ])("%j is shown as %j", (text, shown) => {
    expect(mend(text)).toBe(shown);
  });

  it.each([RICH, ODD])("never takes back a word that was shown", (whole) => {
    const view = (text: string) => html(text, true).replace(/<button.*?<\/button>|<[^>]*>/g, " ").trim().split(/\s+/);
    let before: string[] = [];
    for (let end = 1; end <= whole.length; end += 1) {
      const words = view(whole.slice(0, end));
      expect(words.slice(0, before.length - 1), whole.slice(0, end)).toEqual(before.slice(0, -1));
      before = words;
    }
  });
});

describe("markup", () => {
  it("is text where it is HTML", () => {
    const shown = html("<script>alert(1)</script>\n\na <b onclick=x>b</b>\n\n<img src=x onerror=y>");
    expect(shown).not.toMatch(/<(script|b|img)/);
    expect(shown).toContain("&lt;script&gt;alert(1)&lt;/script&gt;");
  });

  it.each([
    ["https://bank.example/login", "https://evil.example/", "evil.example"],
    ["bank.example", "https://bank.example.evil.example/", "bank.example.evil.example"],
    ["bank.example", "https://bank.example@evil.example/", "evil.example"],
    ["Log in at bank.example now", "https://evil.example:8443/bank.example", "evil.example"],
    ["bank\u200B.example", "https://evil.example/", "evil.example"],
    ["ba\u00ADnk.example", "https://evil.example/", "evil.example"],
    ["bank\u3002example", "https://evil.example/", "evil.example"],
    ["ｂａｎｋ.example", "https://evil.example/", "evil.example"],
    ["192.0.2.1", "https://192.0.2.2/", "192.0.2.2"],
    ["b\u0430nk.example", "https://b\u0430nk.example/", "xn--bnk-6cd.example"],
    ["this", "https://b\u0430nk.example/", "xn--bnk-6cd.example"],
    ["help@bank.example", "mailto:help@evil.example", "evil.example"],
    ["help@bank.example", "mailto:help", "?"],
    ["help@bank.example", "mailto:help@bank.example?cc=me@evil.example", null],
    ["help@bank.example", "mailto:help@bank.example", null],
    ["bank.example", "https://bank.example/login?at=evil.example", null],
    ["BANK.example", "https://www.bank.example/", null],
    ["https://bank.example./", "https://bank.example/", null],
    ["b\u00FCcher.example (xn--bcher-kva.example)", "https://b\u00FCcher.example/", null],
    ["the log in page, e.g. this, of version 1.2.3", "https://bank.example/", null],
    ["", "https://bank.example/", null],
  ])("%j to %s tells %j", (text, address, host) => {
    expect(hiddenHost(text, new URL(address).href)).toBe(host);
  });

  it("tells the host of a link whose text names another", () => {
    const shown = '<span class="host"> (evil.example)</span></a>';
    expect(html("[**bank**.example](https://evil.example/)")).toContain(shown);
    expect(html("[bank&#46;example](https://evil.example/)")).toContain(shown);
    expect(html("[`bank.example`](https://evil.example/)")).toContain(shown);
    expect(html("![bank.example](https://evil.example/p.png)")).toContain(shown);
    expect(html("[bank.example][1]\n\n[1]: https://evil.example/")).toContain(shown);
    expect(html("<https://evil.example/> https://evil.example/bank [there](https://evil.example/)")).not.toContain("host");
  });

  it("links only to the web and to mail, and loads no picture", () => {
    for (const address of ["javascript:x", "JaVaScRiPt:x", "data:text/html,x", "/chat/c1", "//evil.example", "vbscript:x", ""]) {
      expect(safeUrl(address)).toBeNull();
    }
    expect(html("[a](java&#115;cript:x) ![p](https://evil.example/p.png)")).not.toMatch(/<img|href="java/);
    expect(html("[a](https://example.com)")).toContain('rel="noopener noreferrer nofollow"');
  });

  it("decodes the references that prose uses", () => {
    expect(decodeEntities("a &amp; b &lt; &#x1F600; &#0; &unknown; &#xD800;")).toBe("a & b < 😀 � &unknown; �");
  });

  it("has headings without a gap in their order", () => {
    expect(html("## A\n\n### B\n\n# C")).toMatch(/<h3[^>]*>A<\/h3><h4[^>]*>B<\/h4><h3[^>]*>C<\/h3>/);
  });
});

describe("pieces of code", () => {
  const code = Array.from({ length: 600 }, (_, n) => (n % 12 === 11 ? "" : `${n % 12 === 0 ? "" : "    "}line ${n}`)).join("\n");

  it("add up to the code, and the earlier ones stay as it grows", () => {
    let before: string[] = [];
    for (let end = 0; end <= code.length; end += 97) {
      const pieces = piecesOf(code.slice(0, end));
      expect(pieces.join("")).toBe(code.slice(0, end));
      expect(pieces.slice(0, before.length - 1)).toEqual(before.slice(0, -1));
      before = pieces;
    }
    expect(before.length).toBeGreaterThan(2);
    expect(Math.max(...before.map(({ length }) => length))).toBeLessThan(6000);
  });
});
