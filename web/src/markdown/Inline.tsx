/** Text inside a block. Everything becomes elements and text nodes; HTML is shown as it was written. */

import type { Token, Tokens } from "marked";
import { Fragment, type ReactNode } from "react";
import { decodeEntities } from "./entities";
import { hiddenHost, safeUrl } from "./links";

export function Inline({ tokens }: { tokens: Token[] | undefined }): ReactNode {
  return tokens?.map((token, index) => <Fragment key={index}>{inline(token as Tokens.Generic)}</Fragment>);
}

function inline(token: Tokens.Generic): ReactNode {
  switch (token.type) {
    case "strong":
      return <strong><Inline tokens={token.tokens} /></strong>;
    case "em":
      return <em><Inline tokens={token.tokens} /></em>;
    case "del":
      return <del><Inline tokens={token.tokens} /></del>;
    case "codespan":
      return <code>{String(token.text)}</code>;
    case "br":
      return <br />;
    case "link":
      return <Link address={String(token.href)} text={textOf(token)}><Inline tokens={token.tokens} /></Link>;
    case "image":
      return <Picture address={String(token.href)} about={String(token.text)} />;
    case "escape":
      return String(token.text);
    case "checkbox":
      return <input type="checkbox" disabled checked={token.checked === true} aria-label={token.checked ? "Done" : "To do"} />;
    case "html":
      return String(token.raw);
    default:
      return token.tokens ? <Inline tokens={token.tokens} /> : decodeEntities(String(token.text ?? token.raw));
  }
}

function Link({ address, text, children }: { address: string; text: string; children: ReactNode }): ReactNode {
  const url = safeUrl(decodeEntities(address));
  if (url === null) return children;
  const host = hiddenHost(text, url);
  return (
    <a href={url} target="_blank" rel="noopener noreferrer nofollow">
      {children}
      {host === null ? null : <span className="host"> ({host})</span>}
    </a>
  );
}

/** What a reader sees of a token. */
function textOf(token: Tokens.Generic): string {
  if (token.tokens) return token.tokens.map((inner) => textOf(inner as Tokens.Generic)).join("");
  return token.type === "codespan" ? String(token.text) : decodeEntities(String(token.text ?? token.raw));
}

/** A picture is offered as a link: loading it would tell its server that, and when, this was read. */
function Picture({ address, about }: { address: string; about: string }): ReactNode {
  const label = `Image: ${decodeEntities(about) || "untitled"}`;
  return (
    <span className="picture">
      <Link address={address} text={label}>{label}</Link>
    </span>
  );
}
