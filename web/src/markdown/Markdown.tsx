/** A reply's Markdown as React elements, drawn block by block. */

import type { Token, Tokens } from "marked";
import { createContext, memo, type ReactNode, useContext, useState } from "react";
import { Blocks } from "./blocks";
import { CodeBlock } from "./CodeBlock";
import { Inline } from "./Inline";

/** `growing` while more text is to come. */
export function Markdown({ text, growing }: { text: string; growing: boolean }): ReactNode {
  const [blocks] = useState(() => new Blocks());
  const tokens = blocks.update(text, growing);
  const heading = tokens.find((token): token is Tokens.Heading => token.type === "heading");
  return (
    <TopHeading value={heading?.depth ?? 1}>
      <BlockList tokens={tokens} growing={growing} />
    </TopHeading>
  );
}

/** The depth of a reply's first heading: models begin with any, and an outline must not skip a level. */
const TopHeading = createContext(1);

function BlockList({ tokens, growing = false, tight = false }: { tokens: Token[]; growing?: boolean; tight?: boolean }): ReactNode {
  const last = tokens.length - 1;
  return tokens.map((token, index) => (
    <Block key={index} token={token as Tokens.Generic} growing={growing && index === last} tight={tight} />
  ));
}

interface BlockProps {
  token: Tokens.Generic;
  growing: boolean;
  tight: boolean;
}

/** Equal source is equal looks, so a list of a thousand items draws the one that grew. */
const Block = memo(block, (before, after) => {
  const same = before.token === after.token || (before.token.raw === after.token.raw && before.token.type === after.token.type);
  return same && before.growing === after.growing && before.tight === after.tight;
});

function block({ token, growing, tight }: BlockProps): ReactNode {
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "paragraph":
      return <p><Written tokens={token.tokens} growing={growing} /></p>;
    case "heading":
      return <Heading token={token as Tokens.Heading} growing={growing} />;
    case "code":
      return <CodeBlock code={String(token.text)} language={String(token.lang ?? "")} growing={growing} />;
    case "blockquote":
      return <blockquote><BlockList tokens={token.tokens ?? []} growing={growing} /></blockquote>;
    case "list":
      return <List token={token as Tokens.List} growing={growing} />;
    case "list_item":
      return <Item token={token as Tokens.ListItem} growing={growing} tight={tight} />;
    case "table":
      return <Table token={token as Tokens.Table} />;
    case "hr":
      return <hr />;
    case "html":
      return <p className="raw">{String(token.raw).trimEnd()}</p>;
    case "text": {
      const written = <Written tokens={token.tokens ?? [token]} growing={growing} />;
      return tight ? written : <p>{written}</p>;
    }
    default:
      return <Inline tokens={[token]} />;
  }
}

/** Text with the cursor behind it, where it is being written. */
function Written({ tokens, growing }: { tokens: Token[] | undefined; growing: boolean }): ReactNode {
  return (
    <>
      <Inline tokens={tokens} />
      {growing ? <span className="cursor" /> : null}
    </>
  );
}

/** The page has an h1 and each message an h2 of its own, so a reply's headings begin below them. */
function Heading({ token, growing }: { token: Tokens.Heading; growing: boolean }): ReactNode {
  const level = 3 + token.depth - useContext(TopHeading);
  const Tag = `h${Math.max(3, Math.min(6, level))}` as "h3";
  return <Tag className={`heading-${token.depth}`}><Written tokens={token.tokens} growing={growing} /></Tag>;
}

function List({ token, growing }: { token: Tokens.List; growing: boolean }): ReactNode {
  const items = <BlockList tokens={token.items} growing={growing} tight={!token.loose} />;
  if (!token.ordered) return <ul>{items}</ul>;
  return <ol start={token.start === "" ? 1 : token.start}>{items}</ol>;
}

function Item({ token, growing, tight }: { token: Tokens.ListItem; growing: boolean; tight: boolean }): ReactNode {
  return (
    <li className={token.task ? "task" : undefined}>
      <BlockList tokens={token.tokens} growing={growing} tight={tight} />
    </li>
  );
}

function Table({ token }: { token: Tokens.Table }): ReactNode {
  return (
    // The frame scrolls sideways, so the keyboard must be able to reach it.
    <div className="table" role="region" aria-label="Table" tabIndex={0}>
      <table>
        <thead>
          <tr>
            {token.header.map((cell, index) => (
              <th key={index} scope="col" className={cell.align ? `align-${cell.align}` : undefined}>
                <Inline tokens={cell.tokens} />
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {token.rows.map((row, index) => (
            <tr key={index}>
              {row.map((cell, column) => (
                <td key={column} className={cell.align ? `align-${cell.align}` : undefined}>
                  <Inline tokens={cell.tokens} />
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
