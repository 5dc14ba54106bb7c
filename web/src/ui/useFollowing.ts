/** A scroller that stays at its end while the reader is there, and leaves a reader elsewhere alone. */

import { type RefObject, useCallback, useEffect, useRef, useState } from "react";

/** How near to the end counts as there, in pixels. */
const NEAR = 48;

export interface Following {
  /** False once the reader scrolled away from the end. */
  atEnd: boolean;
  /** Goes to the end, and follows from there. */
  toEnd: (behavior?: ScrollBehavior) => void;
}

export function useFollowing(scroller: RefObject<HTMLElement | null>, content: RefObject<HTMLElement | null>): Following {
  const follows = useRef(true);
  const [atEnd, setAtEnd] = useState(true);

  const toEnd = useCallback(
    (behavior: ScrollBehavior = "instant") => {
      follows.current = true;
      setAtEnd(true);
      const element = scroller.current;
      element?.scrollTo({ top: element.scrollHeight, behavior });
    },
    [scroller],
  );

  useEffect(() => {
    const element = scroller.current;
    const inner = content.current;
    if (!element || !inner) return;
    let lastTop = element.scrollTop;
    const scrolled = () => {
      const near = element.scrollHeight - element.scrollTop - element.clientHeight <= NEAR;
      // Only the reader scrolls up; what grows below merely leaves them behind.
      if (element.scrollTop < lastTop - 1 && !near) follows.current = false;
      else if (near) follows.current = true;
      lastTop = element.scrollTop;
      setAtEnd(follows.current || near);
    };
    const grown = new ResizeObserver(() => {
      if (follows.current) element.scrollTop = element.scrollHeight;
      else setAtEnd(element.scrollHeight - element.scrollTop - element.clientHeight <= NEAR);
    });
    element.addEventListener("scroll", scrolled, { passive: true });
    grown.observe(inner);
    grown.observe(element);
    return () => {
      element.removeEventListener("scroll", scrolled);
      grown.disconnect();
    };
  }, [scroller, content]);

  return { atEnd, toEnd };
}
