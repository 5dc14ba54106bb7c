import { createHash } from 'node:crypto';
import { Injectable, NotFoundException } from '@nestjs/common';
import { Redis } from 'ioredis';
import OpenAI from 'openai';
import pg from 'pg';

export interface Start {
  prompt: string;
  modelId: string;
  userId: string;
}

interface Turn {
  role: 'user' | 'assistant';
  content: string;
}

const CACHE_SECONDS = 3600;

@Injectable()
export class ChatService {
  private readonly openai = new OpenAI({ apiKey: 'key' });
  private readonly pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 });
  private readonly redis = new Redis(process.env.VALKEY_URL!);

  async *relay(model: string, prompt: string): AsyncGenerator<object> {
    for await (const token of this.tokens(model, [{ role: 'user', content: prompt }])) {
      yield { type: 'token', content: token };
    }
    yield { type: 'done' };
  }

  async start({ prompt, modelId, userId }: Start): Promise<object> {
    const client = await this.pool.connect();
    try {
      await client.query('begin');
      const chat = await client.query(
        'insert into peer.chats (user_id, title) values ($1, $2) returning id',
        [userId, prompt.slice(0, 80)],
      );
      const chatId: string = chat.rows[0].id;
      await client.query(
        "insert into peer.messages (chat_id, role, content) values ($1, 'user', $2)",
        [chatId, prompt],
      );
      const session = await client.query(
        'insert into peer.sessions (chat_id, model_id) values ($1, $2) returning id',
        [chatId, modelId],
      );
      await client.query('commit');
      return { sessionId: session.rows[0].id, chatId };
    } catch (error) {
      await client.query('rollback');
      throw error;
    } finally {
      client.release();
    }
  }

  async *stream(sessionId: string): AsyncGenerator<object> {
    const found = await this.pool.query('select chat_id, model_id from peer.sessions where id = $1', [
      sessionId,
    ]);
    if (found.rows.length === 0) throw new NotFoundException();
    const { chat_id: chatId, model_id: model } = found.rows[0];
    const turns = await this.pool.query<Turn>(
      'select role, content from peer.messages where chat_id = $1 order by position',
      [chatId],
    );
    const key = 'nest:' + createHash('sha256').update(JSON.stringify([model, turns.rows])).digest('hex');
    let text = await this.redis.get(key);
    if (text !== null) {
      yield { type: 'token', content: text };
    } else {
      text = '';
      for await (const token of this.tokens(model, turns.rows)) {
        text += token;
        yield { type: 'token', content: token };
      }
      await this.redis.set(key, text, 'EX', CACHE_SECONDS);
    }
    await this.pool.query(
      "insert into peer.messages (chat_id, role, content) values ($1, 'assistant', $2)",
      [chatId, text],
    );
    yield { type: 'done' };
  }

  async history(chatId: string): Promise<object> {
    const found = await this.pool.query(
      'select id, role, content, created_at from peer.messages where chat_id = $1 order by position desc limit 50',
      [chatId],
    );
    return { messages: found.rows.reverse() };
  }

  private async *tokens(model: string, messages: Turn[]): AsyncGenerator<string> {
    const stream = await this.openai.chat.completions.create({ model, messages, stream: true });
    for await (const chunk of stream) {
      const content = chunk.choices[0]?.delta.content;
      if (content) yield content;
    }
  }
}
