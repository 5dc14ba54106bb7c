/** A block of code with its language, a copy button and colours. */

import { memo, type ReactNode, useMemo } from "react";
import { CopyButton } from "../ui/CopyButton";
import { useHighlighter } from "./highlight";
import { piecesOf } from "./pieces";

interface CodeBlockProps {
  code: string;
  /** The info string; its first word names the language. */
  language: string;
  growing: boolean;
}

export function CodeBlock({ code, language, growing }: CodeBlockProps): ReactNode {
  const name = /^[\w#+.-]*/.exec(language.trim())?.[0] ?? "";
  const pieces = useMemo(() => piecesOf(code), [code]);
  return (
    <div className="code">
      <div className="code-head">
        <span>{name || "text"}</span>
        {growing ? null : <CopyButton text={code} label="Copy code" />}
      </div>
      {/* It scrolls sideways, so the keyboard must be able to reach it. */}
      <pre tabIndex={0} role="region" aria-label={name ? `Code, ${name}` : "Code"}>
        <code>
          {pieces.map((piece, index) => (
            <Piece key={index} code={piece} language={name} />
          ))}
        </code>
      </pre>
    </div>
  );
}

const Piece = memo(function Piece({ code, language }: { code: string; language: string }): ReactNode {
  const highlight = useHighlighter();
  return highlight ? highlight(code, language) : code;
});
