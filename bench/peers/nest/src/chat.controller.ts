import { Body, Controller, Get, Inject, type MessageEvent, Post, Query, Sse } from '@nestjs/common';
import { from, map, type Observable } from 'rxjs';
import { ChatService, type Start } from './chat.service.js';

const asMessage = map((body: object): MessageEvent => ({ data: body }));

@Controller()
export class ChatController {
  constructor(@Inject(ChatService) private readonly chats: ChatService) {}

  @Sse('relay')
  relay(@Query('model') model: string, @Query('prompt') prompt: string): Observable<MessageEvent> {
    return from(this.chats.relay(model, prompt)).pipe(asMessage);
  }

  @Post('chat/start')
  start(@Body() body: Start): Promise<object> {
    return this.chats.start(body);
  }

  @Sse('chat/stream')
  stream(@Query('sessionId') sessionId: string): Observable<MessageEvent> {
    return from(this.chats.stream(sessionId)).pipe(asMessage);
  }

  @Get('chat/history')
  history(@Query('chatId') chatId: string): Promise<object> {
    return this.chats.history(chatId);
  }
}
