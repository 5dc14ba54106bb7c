// Streaming chat as it is usually built on Node: NestJS's @Sse, the SDK, pg and ioredis; on Fastify, with
// NODE_ENV=production, as NestJS's documentation advises where speed matters.
import 'reflect-metadata';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { ChatController } from './chat.controller.js';
import { ChatService } from './chat.service.js';

@Module({ controllers: [ChatController], providers: [ChatService] })
class AppModule {}

const app = await NestFactory.create<NestFastifyApplication>(AppModule, new FastifyAdapter(), {
  logger: ['error'],
});
app.enableShutdownHooks();
await app.listen(Number(process.env.PORT), '127.0.0.1');
